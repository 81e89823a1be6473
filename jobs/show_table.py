"""Look at a Delta table: its version, size, columns and some rows, or the rows with a value. Reads no more than it needs for that.

python -m jobs.show_table flights_scored --rows 5
python -m jobs.show_table flights_scored --where row_id=2013-06-01-AA-1895-EWR-0615
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table
from jobs.tables.conditions import rows_where
from jobs.tables.delta import open_table

__all__ = ["main"]

_MAX_BYTES = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("show_table", __doc__)
    parser.add_argument("table", help="name below storage.tables, path or URI")
    parser.add_argument("--rows", type=int, default=5, help="rows to show (default: %(default)s)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="show rows with this value, read by the column's type (times in RFC 3339); may be repeated: all must hold",
    )
    parser.add_argument("--version", type=int, help="version of the table (default: the latest)")
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    location = conf.table_location(arguments.table)
    opened = open_table(location, arguments.version)
    rows = opened.to_pyarrow_dataset()
    wanted = rows_where(rows.schema, arguments.where)
    facts = {
        "table": location,
        "version": opened.version(),
        "rows": opened.count(),
        "files": len(opened.file_uris()),
    }
    if wanted is not None:
        facts["rows with these values"] = rows.count_rows(filter=wanted)
    print(table(facts))
    for i, row in enumerate(rows.head(arguments.rows, filter=wanted).to_pylist(), 1):
        print(f"\nrow {i}")
        print(table({name: _shown(value) for name, value in row.items()}))
    return 0


def _shown(value: object) -> bool | int | str:
    """Return a value as it is printed: all of it, but for a file in a column, of which the beginning tells what it is."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, bytes) and len(value) > _MAX_BYTES:
        return f"{value[:_MAX_BYTES]!r}... ({len(value):,} bytes)"
    return str(value)


if __name__ == "__main__":
    sys.exit(run(main))
