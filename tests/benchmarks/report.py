"""From measurements to what is published: bench.json, and the tables of the README."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.publish import entry

_TITLES = {
    "A": "A: all inputs in the request table",
    "B": "B: stored views joined as of each request",
}
_VERSIONS = ("pyspark", "mlflow", "scikit-learn", "polars", "pyarrow", "numba")


class Report:
    """What the measurements say.

    Args:
        records: by (workload, name, round), as results.jsonl has them; also ("memory", ours, rows).
        rows, cores: of the run.
        ours: the name that the others are compared to.
    """

    def __init__(
        self, records: Mapping[tuple[Any, ...], dict[str, Any]], rows: int, cores: int, ours: str
    ) -> None:
        self.records = records
        self.rows, self.cores, self.ours = rows, cores, ours
        self.measured = {w: self._best(w) for w in _TITLES}

    def _best(self, workload: str) -> dict[str, dict[str, Any]]:
        """Return, by name, the better of the rounds for each number, or why there is none."""
        best: dict[str, dict[str, Any]] = {}
        for (of, name, _), record in self.records.items():
            if of != workload or name == "time budget":
                continue
            kept = best.get(name)
            if kept is None or "failed" in kept:
                best[name] = dict(record)
            elif "failed" not in record:
                kept.update({key: min(kept[key], record[key]) for key in ("cold_s", "warm_s")})
                peaks = {**record["peak_mb"], **kept["peak_mb"]}
                kept["peak_mb"] = {
                    r: max(kept["peak_mb"].get(r, 0), record["peak_mb"].get(r, 0)) for r in peaks
                }
                kept["check"] = kept["check"] and {
                    k: max(v, record["check"][k]) for k, v in kept["check"].items()
                }
        return best

    def is_sound(self) -> bool:
        """Return whether ours ran wherever anything ran, and gave scikit-learn's bits."""
        found = [measured.get(self.ours, {}) for measured in self.measured.values() if measured]
        return bool(found) and all((one.get("check") or {}).get("differing_bits") == 0 for one in found)

    def entries(self) -> list[dict[str, Any]]:
        """Return bench.json: name, ours, peer, ratio (above 1: ours is better), unit, rows; a failed peer has its reason."""
        return [*self._speeds(), *self._peaks(), *self._memory(), *self._budget()]

    def _speeds(self) -> Iterator[dict[str, Any]]:
        for workload, measured in self.measured.items():
            for name, record in measured.items():
                if name == self.ours:
                    continue
                for kind in ("cold", "warm"):
                    if kind == "cold" and name == "scikit-learn ceiling":
                        continue
                    ours, peer = self._rate(measured.get(self.ours, {}), kind), self._rate(record, kind)
                    made = entry(f"{workload}/{kind}/{name}", ours, peer, "rows/s", _rows(record))
                    yield {**made, **({"failed": record["failed"]} if "failed" in record else {})}

    def _rate(self, record: Mapping[str, Any], kind: str) -> float | None:
        seconds = record.get(f"{kind}_s")
        return _rows(record) / seconds if seconds else None

    def _peaks(self) -> Iterator[dict[str, Any]]:
        """Peak memory of all processes of a contestant together."""
        for workload, measured in self.measured.items():
            ours = measured.get(self.ours, {}).get("peak_mb", {}).get("all")
            for name, record in measured.items():
                peer = record.get("peak_mb", {}).get("all")
                if name != self.ours and ours and peer:
                    yield entry(f"{workload}/peak memory/{name}", ours, peer, "MB", self.rows)

    def _memory(self) -> Iterator[dict[str, Any]]:
        """Peak memory of the job, by process, with the largest table; peer is the job with the smallest, so 1 is flat."""
        sizes = sorted(
            key[2] for key, record in self.records.items() if key[0] == "memory" and "failed" not in record
        )
        if len(sizes) < 2:
            return
        low, high = (self.records["memory", self.ours, rows]["peak_mb"] for rows in (sizes[0], sizes[-1]))
        for role in ("driver", "jvm", "worker"):
            name = f"memory/{role}/{sizes[-1]} rows against {sizes[0]}"
            yield entry(name, high[role], low[role], "MB", sizes[-1])

    def _budget(self) -> Iterator[dict[str, Any]]:
        facts = self._budget_facts()
        for step, ns in facts.get("ns_per_row", {}).items():
            yield entry(f"budget/{step}", ns, None, "ns/row", facts["rows"])

    def _budget_facts(self) -> dict[str, Any]:
        return self.records.get(("B", "time budget", 1), {}).get("facts") or {}

    def markdown(self) -> str:
        """Return what README shows."""
        parts = [self._head()]
        for workload, measured in self.measured.items():
            if measured:
                parts.append(self._table(workload, measured))
        parts += [*self._budget_text(), *self._memory_text()]
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS if _has(name))
        loads = [record["load_before"] for record in self.records.values() if "load_before" in record]
        noise = (
            f"; load average before a measurement up to {max(loads)} on {os.cpu_count()} cores"
            if loads
            else ""
        )
        return (
            f"{self.rows:,} rows, {self.cores} cores for each ({_processor()}), HistGradientBoosting of 100 trees; Python "
            f"{platform.python_version()}, {versions}{noise}. Cold: whole process; warm: second pass in it (the first where one "
            "takes over three minutes). In brackets: how many times as fast this project's batch job is. Peers use the same numpy "
            "feature functions and write the same columns; the batch job writes provenance, proves ids and commits to Delta "
            "besides. Memory: largest seen of the main process, the JVM, one other process. Code: `tests/benchmarks/peers`."
        )

    def _table(self, workload: str, measured: Mapping[str, dict[str, Any]]) -> str:
        lines = [
            f"**{_TITLES[workload]}**",
            "",
            "| | cold, s | warm, s | rows/s warm | driver / JVM / worker, MB | largest difference to scikit-learn |",
            "|---|---|---|---|---|---|",
        ]
        ours = measured.get(self.ours, {})
        for name, record in measured.items():
            if "failed" in record:
                lines.append(f"| {name} | failed: {record['failed'].replace('|', '/')} | | | | |")
                continue
            is_ceiling = record["check"] is None
            cold, warm = (self._seconds(ours, record, kind) for kind in ("cold", "warm"))
            rate = f"{self._rate(record, 'warm'):,.0f}"
            peaks = " / ".join(
                f"{record['peak_mb'][r]:,.0f}" if r in record["peak_mb"] else "-"
                for r in ("driver", "jvm", "worker")
            )
            check = "-" if is_ceiling else _difference(record["check"])
            lines.append(f"| {name} | {'-' if is_ceiling else cold} | {warm} | {rate} | {peaks} | {check} |")
        return "\n".join(lines)

    def _seconds(self, ours: Mapping[str, Any], record: Mapping[str, Any], kind: str) -> str:
        rate, our_rate = self._rate(record, kind), self._rate(ours, kind)
        shown = f"{record[f'{kind}_s']:.1f}"
        if record.get("key", [None, ""])[1] == self.ours or not rate or not our_rate:
            return shown
        return f"{shown} ({our_rate / rate:.1f}x)"

    def _budget_text(self) -> Iterator[str]:
        facts = self._budget_facts()
        if facts:
            steps = facts["ns_per_row"]
            shown = ", ".join(f"{step} {ns:.0f}" for step, ns in steps.items())
            yield f"Processor time of a row, ns (B, a task's steps one by one): {shown}; together {sum(steps.values()):.0f}."
        for workload, measured in self.measured.items():
            stages = (measured.get(self.ours, {}).get("facts") or {}).get("stages")
            if stages:
                shown = ", ".join(
                    f"{stage} {seconds / self.rows * 1e9:.0f}" for stage, seconds in stages.items()
                )
                yield f"Wall time of a row in the tasks of the warm run, ns, workload {workload}: {shown}."

    def _memory_text(self) -> Iterator[str]:
        entries = list(self._memory())
        if entries:
            shown = ", ".join(
                f"{e['name'].split('/')[1]} {e['peer']:,.0f} -> {e['ours']:,.0f} MB" for e in entries
            )
            yield f"Peak memory of the batch job, {entries[0]['name'].split('/')[2]}: {shown}."


def _rows(record: Mapping[str, Any]) -> int:
    return int((record.get("facts") or {}).get("rows") or record.get("rows", 0))


def _difference(check: Mapping[str, Any]) -> str:
    return "none: the same bits" if check["differing_bits"] == 0 else f"{check['max_abs_diff']:.2g}"


def _has(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()
