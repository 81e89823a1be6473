"""Says what on this machine would keep a job from running, and how to mend it.

    python -m jobs.doctor [--env ENV] [--model MODEL] [--set KEY=VALUE] [--spark]

It also works where packages are missing, and changes nothing. Exit codes: 0 nothing failed (there may be warnings), 1 something
failed, 2 usage or configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs.runs import checks

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; return 0 if nothing failed, else 1."""
    findings = [*checks.check_python(), *checks.check_java(), *checks.check_packages()]
    try:
        from jobs.runs.command import job_parser, load_from
    except ModuleNotFoundError as exc:
        findings.append(checks.missing_package(exc))
        return _report(findings)
    parser = job_parser("doctor", "Check that jobs can run on this machine.")
    parser.add_argument("--spark", action="store_true", help="also start a Spark session (about 15 s)")
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    findings += checks.check_registry(conf)
    findings += checks.check_disk(conf.storage.root)
    findings += checks.check_tables(conf.storage.tables)
    findings += checks.check_ports()
    if arguments.spark:
        findings += checks.check_spark(conf)
    return _report(findings)


def _report(findings: Sequence[checks.Finding]) -> int:
    print(checks.format_findings(findings))
    return int(any(finding.status == checks.FAIL for finding in findings))


if __name__ == "__main__":
    try:
        from jobs.runs.command import run
    except ModuleNotFoundError:
        sys.exit(main())
    sys.exit(run(main))
