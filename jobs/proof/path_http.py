"""The paths over HTTP: rows in every form of a body that the lean server and MLflow's own take, and the answers to them.

This module does not know where a server runs, nor who started it.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow.parquet as pq

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import UnavailableError
from feature_pipelines.reasons import Reason
from jobs.proof.path_answers import Answer, Row, answer_of, as_answered
from jobs.proof.path_rows import ROW, expressed, placed
from jobs.proof.path_servers import JSON

__all__ = ["LEAN_FORMS", "STOCK_FORMS", "Asked", "Form", "HttpPath"]

_CSV, _PARQUET = "text/csv", "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Form:
    """One form of a body.

    Args:
        name: as in `lean-inputs`.
        content_type: of the request.
        write: returns the body of rows and the answers to those that it cannot express.
        has_features: whether a request in this form can ask for the features.
        cannot_carry: see ScoringPath.
    """

    name: str
    content_type: str
    write: Callable[[FeatureSet, Sequence[Row]], tuple[bytes, dict[int, Answer]]]
    cannot_carry: frozenset[str] = frozenset()


class Asked(Protocol):
    """Who is asked: a `Server`, or what stands for one."""

    @property
    def url(self) -> str:
        """Where it is, for messages."""
        ...

    def call(
        self, method: str, route: str, body: bytes | None = None, content_type: str = JSON
    ) -> tuple[int, bytes]:
        """Return status and body of one request."""
        ...


class HttpPath:
    """Rows in one form to a server.

    Args:
        server: who is asked.
        form: how.
        feature_set: of the model that should answer.
    """

    def __init__(self, server: Asked, form: Form, feature_set: FeatureSet) -> None:
        self._server, self._form, self._feature_set = server, form, feature_set
        self.cannot_carry = form.cannot_carry

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        body, refused = self._form.write(self._feature_set, rows)
        asked = [i for i in range(len(rows)) if i not in refused]
        if not asked:
            return placed(len(rows), refused)
        status, text = self._server.call("POST", "/invocations", body, self._form.content_type)
        said: Any = None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(text)["predictions"]
        if status != http.HTTPStatus.OK or not isinstance(said, list):
            raise UnavailableError(
                f"server {self._server.url} answered {status} to {self._form.name}, and not with predictions",
                url=self._server.url,
                status=status,
            )
        names = self._feature_set.feature_names
        answers = [answer_of(one, names) for one in as_answered(self._server.url, said, asked)]
        return placed(len(rows), refused, dict(zip(asked, answers, strict=True)))


def _json_body(key: str) -> Callable[[FeatureSet, Sequence[Row]], tuple[bytes, dict[int, Answer]]]:
    def write(feature_set: FeatureSet, rows: Sequence[Row]) -> tuple[bytes, dict[int, Answer]]:
        content: Any = [dict(row) for row in rows]
        if key == "dataframe_split":
            names = feature_set.sources.names
            content = {"columns": names, "data": [[row.get(name) for name in names] for row in rows]}
        return json.dumps({key: content, "params": {"features": True}}, allow_nan=False).encode(), {}

    return write


def _csv_body(feature_set: FeatureSet, rows: Sequence[Row]) -> tuple[bytes, dict[int, Answer]]:
    """Write every cell in quotes, null as an empty one; a text with a NUL, which pandas cuts there without a word, is not sent."""
    refused: dict[int, Answer] = {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(feature_set.sources.names)
    for i, row in enumerate(rows):
        cells = {name: row.get(name) for name in feature_set.sources.names}
        broken = [name for name, cell in cells.items() if isinstance(cell, str) and "\0" in cell]
        if broken:
            refused[i] = Answer(code=str(Reason.BAD_VALUE), field=broken[0])
        else:
            writer.writerow([_cell(cell) for cell in cells.values()])
    return text.getvalue().encode(), refused


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _parquet_body(feature_set: FeatureSet, rows: Sequence[Row]) -> tuple[bytes, dict[int, Answer]]:
    table, refused = expressed(feature_set, rows)
    sink = io.BytesIO()
    pq.write_table(table.drop_columns([ROW]), sink)
    return sink.getvalue(), refused


LEAN_FORMS = (
    Form("inputs", JSON, _json_body("inputs")),
    Form("instances", JSON, _json_body("instances")),
    Form("split", JSON, _json_body("dataframe_split")),
    Form("records", JSON, _json_body("dataframe_records")),
)
"""What the lean server takes."""

STOCK_FORMS = (
    Form("inputs", JSON, _json_body("inputs")),
    Form("csv", _CSV, _csv_body, frozenset({Reason.BAD_VALUE, Reason.PRECISION_LOST})),
    Form("parquet", _PARQUET, _parquet_body, frozenset({Reason.PRECISION_LOST})),
)
"""What MLflow's own takes: CSV tells no null from an empty text, and pandas makes integers beside nulls floats."""
