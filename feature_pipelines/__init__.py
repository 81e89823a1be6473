"""What a value is: contract, feature definitions, the one evaluator, stored features as of a time.

These are the names that a feature module and its tests need. The rest is imported from its module: `evaluate`, `fingerprint`,
`lookup` (numpy alone), `schema_arrow` and `lookup_arrow` (pyarrow besides).
"""

from feature_pipelines.columns import (
    Binary,
    Bool,
    Column,
    Columns,
    DType,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    Vector,
    decimal,
    values_and_valid,
)
from feature_pipelines.definitions import FeatureSet, Fitted
from feature_pipelines.errors import ContractError, DefinitionError, OnescoreError
from feature_pipelines.evaluate import check_row_local, constants_from_json, fit_constants
from feature_pipelines.reasons import RowsRefused
from feature_pipelines.schema import Field, Reason, RowError, Schema
from feature_pipelines.views import FeatureView, History

__all__ = [
    "Binary",
    "Bool",
    "Column",
    "Columns",
    "ContractError",
    "DType",
    "DefinitionError",
    "FeatureSet",
    "FeatureView",
    "Field",
    "Fitted",
    "Float32",
    "Float64",
    "History",
    "Int32",
    "Int64",
    "Nullable",
    "OnescoreError",
    "Reason",
    "RowError",
    "RowsRefused",
    "Schema",
    "String",
    "Strings",
    "Timestamp",
    "Vector",
    "check_row_local",
    "constants_from_json",
    "decimal",
    "fit_constants",
    "values_and_valid",
]
