"""The source of a streaming query: what the configuration names, as a DataFrame whose rows the tasks know how to read.

    parquet, csv, any other     columns of the request (and of `stream.columns`); csv as text, read by the wire form
    json, text, kafka           a JSON object in `value`, read by the wire form; no `stream.select`; a blank line of a file is none
    delta                       what commits add to a Delta table, through delta-rs and Spark's API for sources in Python

Spark's own readers of JSON and CSV would guess (a time without offset, 1.0 for an integer, a field that occurs twice, a backslash), so
text is taken as text. This module does not know what becomes of a row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.streaming.readwriter import DataStreamReader
from pyspark.sql.types import StringType, StructField, StructType

import feature_pipelines
import jobs
import udfs
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, ContractError, TableError, did_you_mean
from feature_pipelines.offline.spark_types import spark_type
from feature_pipelines.schema import Schema
from feature_pipelines.schema_arrow import arrow_type
from jobs.runs.conf import Conf
from jobs.runs.csv_files import CsvFiles
from jobs.runs.secret_refs import SecretRef
from jobs.runs.stream_task import FILE, ORDINAL, PROBLEM, REFUSED, VALUE, Form
from jobs.tables.delta_additions import first_offset
from jobs.tables.delta_read import open_table, require_plain
from jobs.tables.delta_stream import DELTA, START, DeltaStream
from jobs.tables.files import is_local, normal_uri

__all__ = [
    "FILE_FORMATS",
    "StreamSource",
    "columns_ddl",
    "open_source",
    "options_that_count",
    "source_identity",
    "source_place",
    "source_start",
]

FILE_FORMATS = ("parquet", "csv", "json", "text")
_LINES = ("json", "text", "kafka")
_WITHOUT_PLACE = ("rate", "rate-micro-batch", "kafka", "socket")
_SIZES = {
    "maxfilespertrigger",
    "maxbytespertrigger",
    "maxoffsetspertrigger",
    "minoffsetspertrigger",
    "maxtriggerdelay",
}
"""Options that say how much a batch takes, and nothing of which rows there are: a restart may have others."""
_OF_FILES = {
    *(
        "maxfilespertrigger",
        "maxbytespertrigger",
        "maxfileage",
        "latestfirst",
        "filenameonly",
        "maxcachedfiles",
    ),
    *("discardcachedinputratio", "cleansource", "sourcearchivedir", "pathglobfilter", "recursivefilelookup"),
    *("modifiedbefore", "modifiedafter", "ignoremissingfiles", "ignorecorruptfiles"),
}
"""Options of Spark's that say which files there are, and nothing of what is in them."""
Start = Mapping[str, Any] | None


@dataclass(frozen=True)
class StreamSource:
    """An opened source.

    Args:
        begun: returns its rows from where the query began (see `source_start`), with the columns of `stream_task` that say where each was.
        form: how they look.
        schema: the columns that the contract reads.
        originals: the columns that a quarantined row keeps.
        root: where it is, "" for a source without a place.
    """

    begun: Callable[[Start], DataFrame]
    form: Form
    schema: pa.Schema
    originals: pa.Schema
    root: str


def source_place(conf: Conf) -> str | None:
    """Return where the source is, None for a format that has no place."""
    settings = conf.stream
    if settings.source is None and settings.format in _WITHOUT_PLACE:
        return None
    return conf.table_location(settings.source if settings.source is not None else conf.input.source)


def options_that_count(format_: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Return, of a source's options, those that a restart must share: none by which older releases had csv read, which is fixed now."""
    return {
        name: str(value)
        for name, value in sorted(options.items())
        if name.lower() not in _SIZES and (format_ != "csv" or name.lower() in _OF_FILES)
    }


def source_identity(conf: Conf) -> dict[str, Any]:
    """Return what a restart must share with the query that it continues, of the source and of what it makes of rows."""
    settings = conf.stream
    return {
        "stream.format": settings.format,
        "stream.source": source_place(conf),
        "stream.options": options_that_count(settings.format, settings.options),
        "stream.columns": settings.columns,
        "stream.select": list(settings.select),
        "stream.event_time": settings.event_time,
        "stream.watermark": settings.watermark,
    }


def source_start(conf: Conf) -> Start:
    """Return where in the source a query that begins now begins; to be asked once and kept with the query.

    None for a source that is Spark's own, which keeps that itself, or has a beginning that does not move.

    Raises:
        ConfigurationError, TableError: see `first_offset`.
    """
    return first_offset(source_place(conf) or "", _options(conf)) if conf.stream.format == "delta" else None


def open_source(spark: SparkSession, conf: Conf, feature_set: FeatureSet) -> StreamSource:
    """Return the source that the configuration names.

    Args:
        spark: a classic session.
        conf: its `stream` section; see `StreamSettings`.
        feature_set: the model's, whose request says which columns there are.

    Raises:
        ConfigurationError: what is asked for does not go together. ContractError: the source lacks columns.
        TableError: there is no such Delta table, or none that can be read without Delta's own reader.
    """
    settings = conf.stream
    place = source_place(conf)
    declared = _declared(conf, feature_set)
    if settings.format in _LINES and settings.select:
        raise ConfigurationError(
            f"stream.select: rows of {settings.format} are JSON objects, and have no columns to select from; leave it empty"
        )
    if settings.format == "delta":
        source = _delta(spark, conf, place or "")
    elif settings.format == "csv":
        source = _csv(spark, conf, place or "", declared)
    else:
        source = _spark_source(spark, conf, place, declared)
    if settings.select:
        source = _selected(source, list(settings.select), feature_set)
    _require_columns(source, feature_set, conf)
    _require_event_time(source, feature_set, conf)
    return source


def _declared(conf: Conf, feature_set: FeatureSet) -> StructType:
    """Return the request's columns, and the further ones that the configuration names, which win."""
    further = _struct(conf.stream.columns)
    names = {field.name for field in further}
    request = Schema(tuple(field for field in feature_set.request if field.name not in names))
    return StructType([*_struct(columns_ddl(request)), *further])


def columns_ddl(schema: Schema) -> str:
    """Return declared fields as Spark DDL."""
    return ", ".join(f"`{field.name}` {spark_type(field.dtype)}" for field in schema)


def _struct(ddl: str) -> StructType:
    if not ddl.strip():
        return StructType([])
    try:
        parsed: Any = StructType.fromDDL(ddl)
    except Exception as exc:
        first = str(exc).strip().partition("\n")[0][:200]
        raise ConfigurationError(f"stream.columns: {ddl!r} is no Spark DDL ({first})") from exc
    if not isinstance(parsed, StructType):
        raise ConfigurationError(f"stream.columns: {ddl!r} names a type; expected columns, `name type, ...`")
    return parsed


def _options(conf: Conf) -> dict[str, str]:
    values = conf.stream.options.items()
    return {name: v.reveal() if isinstance(v, SecretRef) else v for name, v in values}


def _spark_source(spark: SparkSession, conf: Conf, place: str | None, declared: StructType) -> StreamSource:
    settings = conf.stream
    form: Form = "lines" if settings.format in _LINES else "columns"
    reader = spark.readStream.format("text" if form == "lines" and place is not None else settings.format)
    if settings.format == "parquet":
        reader = reader.schema(declared)
    frame = _loaded(reader.options(**_options(conf)), place)
    originals = _arrow(frame.schema)
    if settings.format in FILE_FORMATS:
        if form == "lines":
            frame = frame.where(F.col(VALUE).rlike(r"\S"))
        where = [_file_path()]
        if settings.format == "parquet":
            where.append(F.col("_metadata.row_index").alias(ORDINAL))
        frame = frame.select("*", *where)
    elif settings.format == "kafka":
        file = F.concat_ws("/", F.col("topic"), F.col("partition"))
        frame = frame.select("*", file.alias(FILE), F.col("offset").alias(ORDINAL))
    if form == "lines" and VALUE not in frame.columns:
        raise ConfigurationError(f"stream.format {settings.format}: the source has no column {VALUE!r}")
    schema = originals if form == "columns" else _arrow(declared)
    return StreamSource(lambda _: frame, form, schema, originals, normal_uri(place) if place else "")


def _csv(spark: SparkSession, conf: Conf, place: str, declared: StructType) -> StreamSource:
    """Return the rows of CSV files as text; Spark reads files, and the project's own reader what is in them."""
    options = _options(conf)
    unknown = [name for name in options if name.lower() not in _OF_FILES]
    if unknown:
        raise ConfigurationError(
            f"stream.options.{unknown[0]}: csv has one form, that of RFC 4180 in UTF-8 with a header, and options of its files "
            f"alone.{did_you_mean(unknown[0].lower(), _OF_FILES)}"
        )
    reader = spark.readStream.format("text").options(**options, wholetext="true")
    whole = _loaded(reader, place).select(F.col(VALUE).cast("binary").alias(VALUE), _file_path())
    texts = StructType([StructField(field.name, StringType()) for field in declared])
    marks = [StructField(name, StringType()) for name in (REFUSED, PROBLEM, FILE)]
    form = StructType([*texts, *marks, *_struct(f"`{ORDINAL}` bigint")])
    frame = whole.mapInArrow(CsvFiles(texts.names), form)
    return StreamSource(lambda _: frame, "cells", _arrow(declared), _arrow(texts), normal_uri(place))


def _file_path() -> Column:
    return F.col("_metadata.file_path").alias(FILE)


def _loaded(reader: DataStreamReader, place: str | None) -> DataFrame:
    if place is None:
        return reader.load()
    if is_local(place) and os.path.isfile(place):
        raise TableError(
            f"stream.source: {place} is a file; expected a directory, in which files appear", location=place
        )
    try:
        return reader.load(f"file://{place}" if is_local(place) else place)
    except AnalysisException as exc:
        if exc.getCondition() == "PATH_NOT_FOUND":
            raise TableError(f"stream.source: there is no directory {place}", location=place) from exc
        raise


def _delta(spark: SparkSession, conf: Conf, place: str) -> StreamSource:
    """Return what commits add to a Delta table; always through our own reader, so that it is one source with and without jars."""
    table = open_table(place)
    require_plain(table, place)
    columns = StructType.fromJson(json.loads(table.schema().to_json()))
    with_places = StructType([*columns, StructField(FILE, StringType()), *_struct(f"`{ORDINAL}` bigint")])
    _register(spark)
    reader = spark.readStream.format(DELTA).schema(with_places).options(**_options(conf), path=place)
    schema = _arrow(columns)

    def begun(start: Start) -> DataFrame:
        return (reader if start is None else reader.option(START, json.dumps(dict(start)))).load()

    return StreamSource(begun, "columns", schema, schema, normal_uri(place))


def _register(spark: SparkSession) -> None:
    """Register the source, so that the Python process which Spark starts beside the driver to ask it for offsets finds this code.

    That process gets neither --py-files nor what was added to the session's path, but the environment of when this is called.
    """
    environment = spark.sparkContext.environment
    before = environment.get("PYTHONPATH")
    roots = dict.fromkeys(os.path.dirname(package.__path__[0]) for package in (jobs, udfs, feature_pipelines))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [*roots, before]))
    try:
        spark.dataSource.register(DeltaStream)
    finally:
        environment.pop("PYTHONPATH")
        if before is not None:
            environment["PYTHONPATH"] = before


def _selected(source: StreamSource, expressions: list[str], feature_set: FeatureSet) -> StreamSource:
    """Return the source with columns made of its own by SQL expressions; where rows were is kept. Cells stay text until they are read."""
    where = [name for name in (FILE, ORDINAL, REFUSED, PROBLEM) if name in source.begun(None).columns]

    def begun(start: Start) -> DataFrame:
        return source.begun(start).selectExpr(*expressions, *(f"`{name}`" for name in where))

    made = _arrow(StructType([field for field in begun(None).schema if field.name not in where]))
    schema = made
    if source.form == "cells":
        types = {field.name: field.type for field in source.schema}
        types |= {field.name: arrow_type(field.dtype) for field in feature_set.sources}
        schema = pa.schema([f.with_type(types.get(f.name, f.type)) for f in made])
    return StreamSource(begun, source.form, schema, made, source.root)


def _arrow(schema: StructType) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in to_arrow_schema(schema, timezone="UTC")])


def _require_columns(source: StreamSource, feature_set: FeatureSet, conf: Conf) -> None:
    """Refuse a source that lacks what the model, the row id or the scored table needs."""
    available: Mapping[str, Any] = dict.fromkeys(source.schema.names)
    key = feature_set.row_id if conf.input.row_id is None else conf.input.row_id
    event_time = [conf.stream.event_time] if conf.stream.event_time else []
    required = [f.name for f in feature_set.request if not f.accepts_null]
    lacking = [n for n in (*required, *key, *conf.output.pass_through, *event_time) if n not in available]
    if lacking:
        raise ContractError(
            f"the stream has no column {lacking[0]!r}.{did_you_mean(lacking[0], available)} Make it with stream.select, or declare "
            "it in stream.columns",
            missing=lacking,
        )


def _require_event_time(source: StreamSource, feature_set: FeatureSet, conf: Conf) -> None:
    """Refuse a column of event times that hold no instants: no row of it would ever be late, and nobody would be told."""
    name = conf.stream.event_time or feature_set.as_of
    if name is None or name not in source.schema.names:
        return
    declared = {field.name: field.dtype.kind for field in feature_set.sources}
    is_declared = declared.get(name) == "timestamp"
    type_ = source.schema.field(name).type
    is_instant = pa.types.is_timestamp(type_) and type_.tz is not None
    is_text = pa.types.is_string(type_) and (is_declared or source.form != "columns")
    is_counted = pa.types.is_integer(type_) and is_declared
    if declared.get(name, "timestamp") != "timestamp" or not (is_instant or is_text or is_counted):
        raise ContractError(
            f"stream.event_time: the column {name!r} is {type_}, which says no instant; expected a timestamp with a time zone. Make it "
            "with stream.select, or declare it in stream.columns",
            column=name,
        )
