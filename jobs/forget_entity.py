"""Forget an entity: remove it from online store, prediction log, submissions, scored and quarantine table, corrections and skew reports.

python -m jobs.forget_entity --model flights --key tailnum=N3ELAA --dry-run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.packaged import load_reference
from jobs.online.entity import Entity, parse_entity
from jobs.online.forget_store import ForgottenView
from jobs.online.forgetting import (
    Forgotten,
    forget,
    kept_elsewhere,
    log_directory,
    store_owes,
    submissions_owe,
)
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.tables.removal import vacuum_command

__all__ = ["main"]

_EPILOG = """
Several --key name one entity together: a row must have all of the values. Run the job once for each value if any of them is enough.
It may be killed and run again, beside servers and other jobs; what servers hold in memory reaches the log within
serve.log_flush_seconds, so run it again after that. A Delta table's log keeps the least and greatest
values of removed files for delta.logRetentionDuration (30 days). Corrections and rows of reports are told by the entity's rows in the log,
or by the row's id where that names it. Answers to submissions are told by the row's id alone.
exit 1: a file of the prediction log, or a report, could not be read, or the database of submissions not be reached (all else is done
then), or an open submission holds the entity: run it again when that has ended.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("forget_entity", __doc__, _EPILOG)
    parser.add_argument(
        "--key",
        dest="keys",
        action="append",
        default=[],
        required=True,
        metavar="COLUMN=VALUE",
        help="a request field of string or integer type, and its value; may be repeated",
    )
    parser.add_argument("--log", metavar="DIR", help="the prediction log (default: serve.log_directory)")
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    feature_set: FeatureSet = load_reference(conf.model.feature_set)
    entity = parse_entity(feature_set.request, arguments.keys)
    done = forget(
        conf,
        feature_set,
        entity,
        log_directory(conf, arguments.log),
        datetime.now(UTC),
        dry_run=arguments.dry_run,
    )
    print("plan (nothing was removed): rows to remove" if arguments.dry_run else "rows removed")
    print(table(_removed(conf, done, _pii_remark(conf, feature_set, entity))))
    _print_owed(done)
    if isinstance(done.store, dict):
        print("\nthe online store's files may hold bytes of deleted rows until")
        print(f"  {store_owes(conf)}")
    not_reached = done.submissions if isinstance(done.submissions, str) else ""
    submissions = None if isinstance(done.submissions, str) else done.submissions
    if submissions is not None:
        print("\nthe database of submissions may hold bytes of deleted rows until")
        print(f"  {submissions_owe(conf)}")
    print(
        "\nnot rewritten by this job; what these hold of the entity stays, and a rebuild brings it back from them"
    )
    print(table(dict(kept_elsewhere(conf, feature_set))))
    unreadable = list(done.log.unreadable) if done.log is not None else []
    unreadable += done.reports.unreadable if not isinstance(done.reports, str) else []
    for path in unreadable:
        say(f"error: {path} cannot be read, so whether it holds the entity is not known")
    if not_reached:
        say(
            f"error: submissions: {not_reached.rstrip('.')}. Run this again where they can be reached; all else is done"
        )
    still_open = [] if submissions is None else submissions.open
    if still_open:
        say(
            f"error: {len(still_open)} open submissions hold the entity, or refer to a table that may: {', '.join(still_open[:5])}; "
            "run this again when they have ended"
        )
    return 1 if unreadable or not_reached or still_open else 0


def _removed(conf: Conf, done: Forgotten, remark: str) -> dict[str, Any]:
    store = done.store if isinstance(done.store, str) else {name: _shown(v) for name, v in done.store.items()}
    log: Any = "no log is configured"
    if done.log is not None:
        log = {
            "rows": done.log.rows,
            "files rewritten": done.log.files,
            **({"note": remark} if remark else {}),
        }
    reports: Any = done.reports
    if not isinstance(done.reports, str):
        reports = {"differing rows": done.reports.rows, "reports rewritten": done.reports.reports}
    return {
        "online store": store,
        "prediction log": log,
        "submissions": _in_submissions(conf, done),
        "reports of skew": reports,
        **done.tables,
    }


def _in_submissions(conf: Conf, done: Forgotten) -> dict[str, Any] | str:
    found = done.submissions
    if found is None or isinstance(found, str):
        return found or "there is no database of submissions"
    said: dict[str, Any] = {"answers": found.rows, "submissions with such": found.submissions}
    if found.untold:
        said["note"] = (
            f"the answers to {found.untold:,} submissions do not repeat all of the entity's fields, so they cannot be told; they are "
            f"deleted {conf.submissions.retention_hours:g} h (submissions.retention_hours) after those ended"
        )
    return said


def _shown(view: ForgottenView) -> int | str:
    if not view.remark:
        return view.rows
    return f"{view.rows:,} ({view.remark})" if view.rows else view.remark


def _pii_remark(conf: Conf, feature_set: FeatureSet, entity: Entity) -> str:
    """Say which of the entity's fields the log does not hold as they are."""
    tagged = [name for name in entity.names if "pii" in feature_set.request[name].tags]
    if not tagged or conf.serve.log_pii == "keep":
        return ""
    if conf.serve.log_pii == "drop":
        return f"{', '.join(tagged)}: dropped when the log is written, so rows there neither hold it nor can be told by it"
    if conf.serve.log_pii_key is None:
        return f"{', '.join(tagged)}: hashed in the log, and serve.log_pii_key is not set: hashes were not looked for"
    return ""


def _print_owed(done: Forgotten) -> None:
    for location, rest in done.owed.items():
        if rest.files or rest.unreadable:
            print(f"\nvacuum still owes: {location}")
            print(
                table(
                    {
                        "files of older versions that hold it": rest.files,
                        "bytes": rest.bytes,
                        **({"files that cannot be read": rest.unreadable} if rest.unreadable else {}),
                        "kept for": f"{rest.retention} after they were replaced",
                        "then remove them by": vacuum_command(location),
                        "or at once": "the same with retention_hours=0, enforce_retention_duration=False, while nothing "
                        "writes to the table and nobody needs an older version",
                    }
                )
            )


if __name__ == "__main__":
    sys.exit(run(main))
