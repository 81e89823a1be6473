"""Tables that only a Spark catalog knows: what format they have, and where.

Asked in SQL, so that it works through Spark Connect and with any catalog. This module starts no Spark job and reads no row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import Schema as DeltaSchema

from feature_pipelines.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["CatalogTable", "describe_table", "is_table_name", "parse_description"]

_NAME = re.compile(r"^(`[^`]+`|\w+)(\.(`[^`]+`|\w+)){0,2}$")
_DETAILS = "# Detailed Table Information"


@dataclass(frozen=True)
class CatalogTable:
    """Where a catalog keeps a table.

    Args:
        name: as it was asked for.
        provider: lower case, such as "delta" or "parquet".
        location: URI of its root.
        schema: as the catalog declares it, partition columns included; None for Delta, whose log says it.
    """

    name: str
    provider: str
    location: str
    schema: pa.Schema | None


def is_table_name(text: str) -> bool:
    """Return whether a text can be the name of a table: one to three words with dots between them, or in backticks."""
    return _NAME.match(text) is not None


def describe_table(spark: SparkSession, name: str) -> CatalogTable | None:
    """Return what the catalog of a session says about a table; None if it has no such table.

    Args:
        spark: classic or Connect session.
        name: `table`, `db.table` or `catalog.db.table`.

    Raises:
        TableError: it is a view, has no location, or has a format other than delta and parquet.
    """
    from pyspark.errors import AnalysisException

    try:
        # Asked first, because Spark Connect logs the stack trace of every failed statement.
        if not spark.catalog.tableExists(name):
            return None
        rows = spark.sql(f"DESCRIBE TABLE EXTENDED {name}").collect()
    except AnalysisException as exc:
        reason = str(exc).splitlines()[0][:200]
        raise TableError(f"{name}: the catalog cannot describe it ({reason}).", name=name) from exc
    provider, location = parse_description(name, [(row["col_name"], row["data_type"]) for row in rows])
    schema = None
    if provider == "parquet":
        schema = pa.schema(
            DeltaSchema.from_json(spark.table(name).schema.json()).to_arrow()
        ).remove_metadata()
    return CatalogTable(name, provider, location, schema)


def parse_description(name: str, rows: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return provider and location from the rows (first and second column) of DESCRIBE TABLE EXTENDED.

    Raises:
        TableError: as for `describe_table`.
    """
    described = list(rows)
    start = next((i for i, (label, _) in enumerate(described) if label == _DETAILS), len(described))
    details = {label.lower(): value for label, value in described[start:]}
    kind, provider, location = (details.get(key, "") for key in ("type", "provider", "location"))
    if kind.upper() == "VIEW" or start == len(described):
        raise TableError(
            f"{name}: a view. A run pins files, and a view has none: write it to a table first.", name=name
        )
    if provider.lower() not in ("delta", "parquet"):
        raise TableError(
            f"{name}: a table of format {provider or 'unknown'!r}, expected delta or parquet: make a "
            f"copy of it with CREATE TABLE ... USING parquet AS ...",
            name=name,
            provider=provider,
        )
    if not location:
        raise TableError(
            f"{name}: the catalog does not say where the table is; give its path instead.", name=name
        )
    return provider.lower(), location
