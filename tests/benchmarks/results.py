"""The measurements of a benchmark as they come, kept in a file so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Results:
    """Every measurement, one line of JSON each; the first line says what is measured, one at the end that all is done."""

    def __init__(self, path: Path, settings: dict[str, Any], only: list[str] | None) -> None:
        self.path = path
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        is_same = bool(lines) and lines[0] == settings
        is_finished = {"finished": True} in lines
        if lines and not (is_same and (only or not is_finished)):
            path.rename(path.with_name(f"results-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"))
            lines = []
        if not lines:
            self._append(settings)
        self.again = bool(only)
        self.records = {tuple(line["key"]): line for line in lines if "key" in line}

    def get(self, workload: str, name: str, number: int) -> dict[str, Any] | None:
        return self.records.get((workload, name, number))

    def has(self, *key: Any) -> bool:
        """Return whether there is nothing to measure: it is there, it did not fail, and was not asked for again."""
        return key in self.records and not self.again and "failed" not in self.records[key]

    def add(self, *key: Any, **record: Any) -> None:
        line = {"key": key, "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **record}
        self.records[key] = line
        self._append(line)

    def finish(self) -> None:
        self._append({"finished": True})

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
