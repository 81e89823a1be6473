"""The two tables that a scoring run writes: the schemas of scored and of quarantined rows."""

from __future__ import annotations

import pyarrow as pa

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema_arrow import arrow_type
from jobs.tables.delta_types import stored_type
from udfs.scorer import OutputSpec

__all__ = ["QUARANTINE_SCHEMA", "STAMPS", "scored_schema"]

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_ordinal", pa.int64(), nullable=False),
        pa.field("model_name", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("quarantined_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
STAMPS = (
    "model_name",
    "model_version",
    "feature_fingerprint",
    "configuration_digest",
    "platform_id",
    "verified",
    "run_id",
)
"""Where a scored row came from."""


def scored_schema(
    feature_set: FeatureSet, output: OutputSpec, source: pa.Schema, repeated: tuple[str, ...]
) -> pa.Schema:
    """Return the schema of the scored table: row id, as-of, repeated request columns, outputs, provenance.

    Args:
        feature_set, output: the model's.
        source: the input's schema.
        repeated: input columns that the scored table repeats, each of a type that a table holds (see `delta_types.stored_type`).
    """
    fields = [pa.field("row_id", pa.string(), nullable=False)]
    if feature_set.as_of is not None:
        fields.append(pa.field("as_of_ts", pa.timestamp("us", tz="UTC"), nullable=False))
    fields += [pa.field(name, stored_type(source.field(name).type)) for name in repeated]
    fields += [pa.field(name, arrow_type(dtype), nullable=False) for name, dtype in output.fields.items()]
    fields += [pa.field(name, pa.string(), nullable=False) for name in STAMPS]
    return pa.schema([*fields, pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False)])
