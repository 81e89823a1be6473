"""Two feature sets of a few fields: what bodies of numbers, and of pictures, are read by."""

from __future__ import annotations

from feature_pipelines.columns import Binary, Float64, Int64, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema

__all__ = ["NUMBERS", "PICTURES"]


def size_of(size: Float64) -> Float64:
    """The size."""
    return size


PICTURES = FeatureSet(
    name="pictures",
    request=Schema((Field("picture_id", String, "names it"), Field("picture", Binary, "it"), Field("size", Float64, "bytes"))),
    features=(size_of,),
    row_id=("picture_id",),
)  # fmt: skip
NUMBERS = FeatureSet(
    name="numbers",
    request=Schema((Field("id", Int64, "identifies it"), Field("size", Float64, "metres"), Field("name", String, "of it"))),
    features=(size_of,),
    row_id=("id",),
)  # fmt: skip
