"""The closed world: what a feature set resolves, and the message for everything that it cannot."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import Binary, Float64, Int32, Int64, Nullable, String, Timestamp, Vector
from feature_pipelines.definitions import FeatureSet, FeatureView, Fitted
from feature_pipelines.errors import DefinitionError
from feature_pipelines.schema import Field, Schema

REQUEST = Schema(
    (
        Field("asked_ts", Timestamp),
        Field("origin", String),
        Field("tailnum", Nullable[String]),
        Field("distance", Float64),
        Field("seats", Int32),
    )
)
PLANE = FeatureView("plane", {"tailnum": "tailnum"}, Schema((Field("plane_year", Float64),)))


def half(distance: Float64) -> Float64:
    return distance / 2


def quarter(half: Float64) -> Float64:
    return half / 2


def age(plane_year: Float64) -> Float64:
    return 2013 - plane_year


def scaled(distance: Float64, *, mean: float) -> Float64:
    return distance - mean


def mean_of(distance: Any) -> float:
    return float(np.mean(distance))


def named(tailnum: Nullable[String]) -> Nullable[String]:
    return tailnum


def here(function: Callable[..., Any]) -> str:
    """The place of a function as messages name it, as a pattern."""
    return re.escape(f"feature {function.__name__!r} ({__file__}:{inspect.getsourcelines(function)[1]})")


def feature_set(*features: Callable[..., Any], **changes: Any) -> FeatureSet:
    return FeatureSet(**{"name": "toy", "request": REQUEST, "features": features, **changes})


def test_steps_come_after_what_they_read() -> None:
    resolved = feature_set(quarter, half)
    assert [step.name for step in resolved.steps] == ["half", "quarter"]
    assert resolved.feature_names == ("quarter", "half")


def test_a_step_knows_inputs_constants_and_type() -> None:
    resolved = feature_set(scaled, fitted=(Fitted("mean", mean_of, ("distance",)),))
    (step,) = resolved.steps
    assert (step.inputs, step.constants, str(step.dtype), step.nullable) == (
        ("distance",),
        ("mean",),
        "float64",
        False,
    )


def test_a_value_is_released_after_its_last_reader() -> None:
    def third(half: Float64, quarter: Float64) -> Float64:
        return half + quarter

    resolved = feature_set(half, quarter, third)
    assert [step.releases for step in resolved.steps] == [(), (), ("half", "quarter", "third")]


def test_intermediates_may_be_null_or_text_and_are_no_features() -> None:
    resolved = feature_set(half, intermediates=(named,))
    assert resolved.feature_names == ("half",)
    assert [f.__name__ for f in resolved.functions] == ["named", "half"]


def test_sources_are_request_then_views() -> None:
    resolved = feature_set(age, views=(PLANE,), as_of="asked_ts")
    assert resolved.sources.names == (*REQUEST.names, "plane_year")


def test_inputs_are_the_fields_that_somebody_reads() -> None:
    fitted = (Fitted("mean", mean_of, ("seats",)),)
    resolved = feature_set(age, views=(PLANE,), as_of="asked_ts", fitted=fitted)
    assert resolved.inputs == {"plane_year", "tailnum", "asked_ts", "seats"}
    assert feature_set(half).inputs == {"distance"}


def test_unknown_parameter_is_named_with_place_and_close_match() -> None:
    def late(distanze: Float64) -> Float64:
        return distanze

    message = (
        f"{here(late)}: parameter 'distanze' is not a request field, view field or feature. "
        r"Did you mean 'distance'\? Available: asked_ts, distance, late, origin, seats, tailnum\."
    )
    with pytest.raises(DefinitionError, match=message):
        feature_set(late)


def test_all_unresolved_names_are_reported_at_once() -> None:
    def first(nope: Float64) -> Float64:
        return nope

    def second(distance: Float64, *, maen: float) -> Float64:
        return distance

    fitted = (Fitted("mean", mean_of, ("distanc",)),)
    with pytest.raises(DefinitionError) as caught:
        feature_set(first, second, scaled, fitted=fitted)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert re.match(f"{here(first)}: parameter 'nope'", lines[0])
    assert re.match(
        rf"{here(second)}: keyword-only parameter 'maen' is not a fitted constant. Did you mean 'mean'\?",
        lines[1],
    )
    assert lines[2].startswith(
        "fitted constant 'mean' reads 'distanc', which is no source field. Did you mean 'distance'?"
    )
    assert caught.value.evidence["problems"] == lines


def test_annotation_must_be_the_type_of_what_is_read() -> None:
    def wrong(seats: Float64) -> Float64:
        return seats

    def careless(tailnum: String) -> Float64:
        return tailnum.lookup({}, 0.0)

    def bare(distance) -> Float64:  # type: ignore[no-untyped-def]
        return distance

    with pytest.raises(
        DefinitionError, match=f"{here(wrong)}: parameter 'seats' is annotated float64, but it is int32"
    ):
        feature_set(wrong)
    with pytest.raises(DefinitionError, match=r"'tailnum' is annotated string, but it is Nullable\[string\]"):
        feature_set(careless)
    with pytest.raises(
        DefinitionError, match="'distance' is annotated with no column type, but it is float64"
    ):
        feature_set(bare)


def test_undefined_annotation_is_a_definition_error() -> None:
    def typo(distance: Float46) -> Float64:  # type: ignore[name-defined]  # noqa: F821
        return distance

    with pytest.raises(DefinitionError, match=f"{here(typo)}: an annotation is not defined: name 'Float46'"):
        feature_set(typo)


def test_return_annotation_must_be_a_number_for_a_feature() -> None:
    def silent(distance: Float64):  # type: ignore[no-untyped-def]
        return distance

    def plain(distance: Float64) -> float:
        return 0.0

    for function in (silent, plain):
        with pytest.raises(
            DefinitionError, match=f"{here(function)} has no return annotation that is a column type"
        ):
            feature_set(function)

    def text(origin: String) -> String:
        return origin

    def maybe(seats: Int32) -> Nullable[Int64]:
        return Nullable(seats.astype(np.int64), seats > 0)

    def when(asked_ts: Timestamp) -> Timestamp:
        return asked_ts

    returns = [(text, "string"), (maybe, "int64 or null"), (when, "timestamp")]
    for function, returned in returns:
        message = f"{here(function)} returns {returned}, which a model cannot read; .* or list it under intermediates"
        with pytest.raises(DefinitionError, match=message):
            feature_set(function)
        assert feature_set(half, intermediates=(function,)).steps[0].name == function.__name__


def test_star_parameters_cannot_be_resolved() -> None:
    def many(*columns: Float64) -> Float64:
        return columns[0]

    def named_many(distance: Float64, **others: Float64) -> Float64:
        return distance

    with pytest.raises(DefinitionError, match=rf"{here(many)}: \*columns cannot be resolved by name"):
        feature_set(many)
    with pytest.raises(DefinitionError, match=rf"{here(named_many)}: \*others cannot be resolved by name"):
        feature_set(named_many)


def test_only_plain_functions_are_features() -> None:
    with pytest.raises(
        DefinitionError, match=r"feature set 'toy' lists <ufunc 'sqrt'>, which is no plain function"
    ):
        feature_set(np.sqrt)


def test_a_cycle_is_named() -> None:
    def one(three: Float64) -> Float64:
        return three

    def two(one: Float64) -> Float64:
        return one

    def three(two: Float64) -> Float64:
        return two

    with pytest.raises(DefinitionError, match=f"{here(one)} depends on itself: one -> three -> two -> one"):
        feature_set(one, two, three)


def test_a_name_used_twice_names_both_parties() -> None:
    original = half

    def distance(seats: Int32) -> Float64:
        return seats * 1.0

    with pytest.raises(
        DefinitionError, match=f"uses a name more than once: {here(distance)} and source field 'distance'"
    ):
        feature_set(distance)
    with pytest.raises(DefinitionError, match=f"{here(original)} and {here(original)}"):
        feature_set(half, intermediates=(half,))
    with pytest.raises(DefinitionError, match=f"{here(original)} and fitted constant 'half'"):
        feature_set(half, fitted=(Fitted("half", mean_of, ("distance",)),))
    constant = Fitted("mean", mean_of, ("distance",))
    with pytest.raises(DefinitionError, match="fitted constant 'mean' and fitted constant 'mean'"):
        feature_set(scaled, fitted=(constant, constant))


def test_views_and_request_share_no_field_and_no_name() -> None:
    view = FeatureView("other", {"tailnum": "tailnum"}, Schema((Field("distance", Float64),)))
    with pytest.raises(
        DefinitionError,
        match="feature set 'toy': field 'distance' is declared by the request and by view 'other'",
    ):
        feature_set(half, views=(view,), as_of="asked_ts")
    again = FeatureView("again", {"tailnum": "tailnum"}, PLANE.fields)
    with pytest.raises(
        DefinitionError, match="field 'plane_year' is declared by view 'plane' and by view 'again'"
    ):
        feature_set(half, views=(PLANE, again), as_of="asked_ts")
    with pytest.raises(DefinitionError, match="has several views of one name: plane, plane"):
        feature_set(half, views=(PLANE, PLANE), as_of="asked_ts")


def test_a_set_without_features_is_refused() -> None:
    with pytest.raises(DefinitionError, match="feature set 'toy' lists no feature"):
        feature_set()


def test_as_of_must_be_a_timestamp_that_is_never_null() -> None:
    with pytest.raises(
        DefinitionError, match=r"feature set 'toy' has views, so as_of must name a Timestamp field"
    ):
        feature_set(age, views=(PLANE,))
    with pytest.raises(
        DefinitionError, match=r"as_of names 'asked', which no request field is. Did you mean 'asked_ts'"
    ):
        feature_set(half, as_of="asked")
    with pytest.raises(
        DefinitionError, match="as_of field 'distance' must be a Timestamp that is never null"
    ):
        feature_set(half, as_of="distance")
    sometimes = Schema((*REQUEST, Field("seen_ts", Nullable[Timestamp])))
    with pytest.raises(DefinitionError, match="as_of field 'seen_ts' must be a Timestamp that is never null"):
        feature_set(half, request=sometimes, as_of="seen_ts")


def test_row_id_names_request_fields_that_are_never_null() -> None:
    assert feature_set(half, row_id=("origin", "asked_ts")).row_id == ("origin", "asked_ts")
    with pytest.raises(
        DefinitionError, match=r"row_id names 'orign', which no request field is. Did you mean 'origin'"
    ):
        feature_set(half, row_id=("orign",))
    for name in ("tailnum", "distance"):
        with pytest.raises(
            DefinitionError, match=f"row_id field '{name}' may be null, so it identifies no row"
        ):
            feature_set(half, row_id=(name,))


def test_view_keys_are_request_fields_of_a_kind_that_can_be_a_key() -> None:
    view = FeatureView("plane", {"tailnum": "tail"}, PLANE.fields)
    with pytest.raises(
        DefinitionError, match=r"view 'plane' has the key 'tail', which no request field is. Did you mean"
    ):
        feature_set(age, views=(view,), as_of="asked_ts")
    view = FeatureView("plane", {"distance": "distance"}, PLANE.fields)
    with pytest.raises(
        DefinitionError, match="view 'plane': key 'distance' is float64; a key is one of string, int64, int32"
    ):
        feature_set(age, views=(view,), as_of="asked_ts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missing": "zero"}, "view 'v': missing='zero' must be 'null', 'defaults' or 'reject'"),
        ({"keys": {}}, "view 'v' has no key column"),
        (
            {"ttl_seconds": -1},
            "view 'v': ttl_seconds=-1 must be whole seconds from 0 to 9223372036854, or None",
        ),
        ({"ttl_seconds": 0.5}, "ttl_seconds=0.5 must be whole seconds"),
        ({"ttl_seconds": True}, "ttl_seconds=True must be whole seconds"),
        ({"ttl_seconds": 2**63}, "ttl_seconds=9223372036854775808 must be whole seconds"),
        (
            {"fields": Schema((Field("a", Int64), Field("b", Float64), Field("c", String)))},
            "view 'v': a, c cannot be null, yet",
        ),
        (
            {"fields": Schema((Field("a", Nullable[Binary]),))},
            "view 'v': a is binary, which cannot be a stored feature",
        ),
    ],
)
def test_view_refuses_a_declaration_that_cannot_hold(changes: dict[str, Any], message: str) -> None:
    arguments = {"name": "v", "keys": {"k": "k"}, "fields": PLANE.fields, **changes}
    with pytest.raises(DefinitionError, match=message):
        FeatureView(**arguments)


def test_view_may_demand_a_row_and_then_hold_what_is_never_null() -> None:
    view = FeatureView("v", {"k": "k"}, Schema((Field("a", Int64),)), ttl_seconds=0, missing="reject")
    assert view.describe() == {
        "name": "v",
        "keys": {"k": "k"},
        "fields": [Field("a", Int64).describe()],
        "ttl_seconds": 0,
        "missing": "reject",
    }


def thirds(distance: Float64) -> Vector[Float64, 3]:
    return np.stack([distance / 3] * 3)


def of_thirds(thirds: Vector[Float64, 3]) -> Float64:
    return thirds[0]


def test_a_vector_names_a_row_for_each_of_its_values() -> None:
    assert feature_set(half, thirds, of_thirds).feature_names == (
        "half",
        "thirds_0",
        "thirds_1",
        "thirds_2",
        "of_thirds",
    )
    assert feature_set(of_thirds, intermediates=(thirds,)).feature_names == ("of_thirds",)


def test_a_vector_is_read_as_the_vector_that_it_is() -> None:
    def of_two(thirds: Vector[Float64, 2]) -> Float64:
        return thirds[0]

    def of_one(thirds: Float64) -> Float64:
        return thirds

    for function, annotated in ((of_two, r"vector\(float64, 2\)"), (of_one, "float64")):
        with pytest.raises(
            DefinitionError, match=rf"'thirds' is annotated {annotated}, but it is vector\(float64, 3\)"
        ):
            feature_set(function, intermediates=(thirds,))


def test_a_row_of_a_vector_has_a_name_of_its_own() -> None:
    def thirds_1(distance: Float64) -> Float64:
        return distance

    with pytest.raises(
        DefinitionError, match=r"more than once: 'thirds_1' of feature 'thirds' .* and feature 'thirds_1'"
    ):
        feature_set(thirds, thirds_1)
    with pytest.raises(DefinitionError, match="source field 'thirds_2'"):
        feature_set(thirds, request=Schema((*REQUEST.fields, Field("thirds_2", Float64))))


def test_a_vector_is_neither_nullable_nor_a_field() -> None:
    def maybe(distance: Float64) -> Nullable[Vector[Float64, 3]]:
        raise NotImplementedError

    with pytest.raises(
        DefinitionError, match=r"returns a nullable vector\(float64, 3\); a null in a vector is NaN"
    ):
        feature_set(half, intermediates=(maybe,))
    with pytest.raises(
        DefinitionError, match=r"field 'image': a vector\(float64, 3\) is what a feature returns"
    ):
        Field("image", Vector[Float64, 3])
