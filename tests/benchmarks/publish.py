"""Where the parts of the benchmark meet: each leaves its records beside the others', bench.json is all of them, README shows them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("batch", "as_of", "stores", "serving", "reconcile", "trees", "async")
_LESS_IS_BETTER = ("ms", "MB", "ns/row", "ratio")


def add_publish_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the benchmark lives, and whether README is rewritten."""
    parser.add_argument(
        "--home", type=Path, default=ROOT / ".onescore" / "bench", help="tables, model and results"
    )
    parser.add_argument("--write-readme", action="store_true", help="put the table into README.md")


def entry(name: str, ours: float | None, peer: float | None, unit: str, rows: int) -> dict[str, Any]:
    """Return a record of bench.json, its ratio above 1 where ours is better; without both numbers there is no ratio."""
    better, worse = (peer, ours) if unit in _LESS_IS_BETTER else (ours, peer)
    ratio = round(better / worse, 2) if better and worse else None
    ours, peer = (None if value is None else float(f"{value:.4g}") for value in (ours, peer))
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "rows": rows}


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return records as README shows them."""
    lines = ["| | ours | peer | ratio |", "|---|---:|---:|---:|"]
    for record in records:
        name, unit = record["name"].partition("/")[2], record["unit"]
        lines.append(
            f"| {name} | {record['ours']:,g} {unit} | {record['peer']:,g} {unit} | {record['ratio']}x |"
        )
    return "\n".join(lines) + "\n"


def publish(part: str, records: Sequence[dict[str, Any]], text: str, arguments: argparse.Namespace) -> None:
    """Print the text, keep the records, write bench.json of all parts that were measured, and README if asked."""
    home = Path(arguments.home)
    home.mkdir(parents=True, exist_ok=True)
    (home / f"part-{part}.json").write_text(json.dumps(list(records)) + "\n", encoding="utf-8")
    files = [home / f"part-{name}.json" for name in PARTS]
    together = [record for file in files if file.exists() for record in json.loads(file.read_text())]
    target = (home.parent if home.name == "bench" else home) / "bench.json"
    target.write_text(json.dumps(together, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(f"the same as JSON: {target}", file=sys.stderr, flush=True)
    if arguments.write_readme:
        write_readme(ROOT / "README.md", part, text)


def write_readme(path: Path, part: str, text: str) -> None:
    """Replace what stands between the markers of a part.

    Raises:
        ValueError: there are none.
    """
    content = path.read_text(encoding="utf-8")
    markers = re.compile(rf"(<!-- bench {part} -->\n).*?(<!-- /bench {part} -->)", re.DOTALL)
    if not markers.search(content):
        raise ValueError(f"{path.name} has no <!-- bench {part} --> markers")
    path.write_text(markers.sub(lambda found: found[1] + text + found[2], content), encoding="utf-8")
