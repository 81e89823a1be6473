"""The newest answers: which they are, and that nothing personal is among them."""

from __future__ import annotations

import json

from feature_pipelines.columns import Binary, Float64, Int64, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema
from jobs.dashboard.recent import Recent, ShownFields, shown_columns
from tests.toy.answered_rows import NOW, answered, log_table


def area(area_m2: Float64) -> Float64:
    """The area, m^2."""
    return area_m2


CANARY = "canary-5up3r"
FEATURES = FeatureSet(
    name="toy",
    request=Schema(
        (
            Field("id", Int64, "identifies"),
            Field("person", String, "who asks", tags=("pii",)),
            Field("area_m2", Float64, "area"),
            Field("town", String, "town"),
            Field("picture", Binary, "picture"),
        )
    ),
    features=(area,),
    row_id=("id", "person"),
)
REQUEST = {
    "id": "7",
    "person": json.dumps(CANARY),
    "area_m2": "82.5",
    "town": json.dumps("x" * 200),
    "picture": json.dumps("aGVsbG8="),
    "undeclared": json.dumps(CANARY),
}


def test_fields_tagged_personal_or_not_declared_are_never_shown() -> None:
    row = answered(1, NOW, request=REQUEST, error_code="UNKNOWN_FIELD", error_field=f"mine-{CANARY}")
    recent = Recent(5, lambda: ShownFields.of(FEATURES))
    recent.add(log_table([row]))
    [found] = recent.rows()
    assert CANARY not in json.dumps(found)
    assert found["id"] == {"id": "7"}
    assert found["request"] == {"area_m2": "82.5", "town": "x" * 79 + "…", "picture": "5 bytes"}
    assert found["error_field"] is None


def test_what_a_later_version_tags_is_not_shown_of_answers_either_that_were_there_before() -> None:
    before = [ShownFields(("id", "person"), ("id", "person", "area_m2", "town")), ShownFields.of(FEATURES)]
    recent = Recent(5, lambda: before[0])
    recent.add(log_table([answered(1, NOW, request=REQUEST, error_code="NULL", error_field="person")]))
    assert recent.rows()[0]["id"] == {"id": "7", "person": CANARY}
    del before[0]
    [found] = recent.rows()
    assert CANARY not in json.dumps(found)
    assert (found["id"], found["error_field"]) == ({"id": "7"}, None)
    assert list(found["request"]) == ["area_m2", "town"]


def test_of_a_model_that_is_not_known_no_field_is_shown() -> None:
    recent = Recent(5, ShownFields)
    recent.add(log_table([answered(1, NOW, request=REQUEST)]))
    [found] = recent.rows()
    assert (found["id"], found["request"]) == ({}, {})
    assert "82.5" not in json.dumps(found)


def test_the_newest_are_kept_in_whatever_order_files_come() -> None:
    recent = Recent(3, ShownFields)
    rows = [answered(i, NOW + i) for i in range(1, 10)]
    for part in (rows[3:6], rows[6:], rows[:3]):
        assert recent.wants(part[-1]["served_ts"]) == (part is not rows[:3] and part[-1]["sequence"] != 3)
        recent.add(log_table(part))
    assert [row["sequence"] for row in recent.rows()] == [9, 8, 7]
    assert not Recent(0, ShownFields).wants(NOW)


def test_an_answer_is_shown_with_its_label_views_and_times() -> None:
    row = answered(
        1,
        NOW,
        class_label="7",
        class_scores={"7": 0.9, "1": 0.1},
        statuses={"rates": "PRESENT", "plane": "NOT_FOUND"},
        event_ts={"rates": NOW - 2_500_000},
    )
    recent = Recent(1, ShownFields)
    table = log_table([row])
    recent.add(table.select(shown_columns(table.schema)))
    [found] = recent.rows()
    assert (found["label"], found["class_scores"]) == ("7", {"7": 0.9, "1": 0.1})
    assert found["views"] == {
        "rates": {"status": "PRESENT", "age_seconds": 2.5},
        "plane": {"status": "NOT_FOUND", "age_seconds": None},
    }
    older = log_table([answered(2, NOW + 1, label=False)], without=("class_label", "class_scores"))
    recent.add(older)
    assert recent.rows()[0]["label"] == "false"
    assert shown_columns(log_table([row], without=("request",)).schema) == []
