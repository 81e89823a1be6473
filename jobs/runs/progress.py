"""What a person sees while a job works, and the tables it ends with. Plain text on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

__all__ = ["ProgressLine", "say", "table"]


def say(message: str, stream: TextIO | None = None) -> None:
    """Print one line of progress on stderr."""
    print(message, file=stream or sys.stderr, flush=True)


class ProgressLine:
    """Rows done, rate and time left: one line that is rewritten on a terminal, a line per step elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._is_open = False

    def __call__(self, done: int, total: int, seconds: float) -> None:
        """Show the state; see score_run.Progress."""
        rate = done / seconds if seconds else 0.0
        left = (total - done) / rate if rate else 0.0
        share = min(done / total, 1.0) if total else 1.0
        text = (
            f"  done {done:>12,} of {total:,} rows ({share:4.0%})  {rate:>11,.0f} rows/s  {_time(left)} left"
        )
        self.stream.write(f"\r{text}" if self.is_terminal else text + "\n")
        self._is_open = self.is_terminal
        if done >= total:
            self.close()
        self.stream.flush()

    def close(self) -> None:
        """End the line on a terminal, so that what comes next, an error perhaps, has a line of its own."""
        if self._is_open:
            self.stream.write("\n")
            self.stream.flush()
        self._is_open = False


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else (f"{minutes}m{rest:02d}s" if minutes else f"{rest}s")


def table(values: Mapping[str, Any]) -> str:
    """Return aligned lines of names and values; nested mappings are indented, numbers have thousands separators.

    >>> print(table({"rows": 1000, "by reason": {"A": 1}}))
      rows         1,000
      by reason
        A          1
    """
    width = max((len(str(name)) + 2 * depth for name, _, depth in _flat(values, 0)), default=0) + 2
    return "\n".join(
        f"  {'  ' * depth}{name:<{width - 2 * depth}} {value}".rstrip()
        for name, value, depth in _flat(values, 0)
    )


def _flat(values: Mapping[str, Any], depth: int) -> list[tuple[str, str, int]]:
    lines: list[tuple[str, str, int]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [(name, "", depth), *_flat(value, depth + 1)]
        else:
            lines.append((name, _text(value), depth))
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "none" if value == {} else str(value)
