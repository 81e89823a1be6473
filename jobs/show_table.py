"""Look at a Delta table: its version, size, columns and some rows. Reads no more than it shows.

python -m jobs.show_table flights_scored --rows 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jobs.runs.command import add_common_arguments, load_from, run
from jobs.runs.progress import table
from jobs.tables.delta import open_table

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = argparse.ArgumentParser(
        prog="jobs.show_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="name below storage.tables, path or URI")
    parser.add_argument("--rows", type=int, default=5, help="rows to show (default: %(default)s)")
    parser.add_argument("--version", type=int, help="version of the table (default: the latest)")
    add_common_arguments(parser)
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    location = conf.table_location(arguments.table)
    opened = open_table(location, arguments.version)
    print(
        table(
            {
                "table": location,
                "version": opened.version(),
                "rows": opened.count(),
                "files": len(opened.file_uris()),
            }
        )
    )
    for i, row in enumerate(opened.to_pyarrow_dataset().head(arguments.rows).to_pylist(), 1):
        print(f"\nrow {i}")
        print(
            table(
                {name: value if isinstance(value, bool | int) else str(value) for name, value in row.items()}
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
