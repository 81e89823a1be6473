"""Make, list and revoke the API keys of asynchronous inference.

    python -m jobs.manage_keys --model flights add nightly-report

A key is shown once, when it is made; what is kept is its hash. `webhook NAME` prints the secret by which that caller's receiver checks
its webhooks (NAME is loopback where no key is needed).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from feature_pipelines.columns import DType
from feature_pipelines.errors import ConfigurationError, did_you_mean
from feature_pipelines.wire import encode
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table
from jobs.runs.secret_refs import SecretRef
from jobs.runs.settings_async import revealed_database_url
from jobs.submissions.database import Database
from jobs.submissions.keys import LOOPBACK, KeyStore
from jobs.submissions.webhook import secret_of_caller

__all__ = ["main"]

_TIMESTAMP = DType("timestamp")
_FIRST = "the first key: from now on every request needs one, and what was submitted without is scored, but no key can see it"


def main(argv: Sequence[str] | None = None) -> int:
    """Make, list or revoke keys; see --help."""
    parser = job_parser(
        "manage_keys",
        __doc__,
        "Submissions belong to the name of the key that sent them, so a name is used once. Once there is a key, every request "
        "needs one, from this machine too. A revoked key is refused within two seconds; what it sent is still scored.",
    )
    parser.add_argument("do", choices=("add", "list", "revoke", "webhook"))
    parser.add_argument("name", nargs="?", help="of the key; letters, digits, dots, dashes, underscores")
    arguments = parser.parse_args(argv)
    if (arguments.name is None) != (arguments.do == "list"):
        parser.error("add, revoke and webhook need a name, list takes none")
    conf = load_from(arguments)
    if arguments.dry_run:
        print("plan (nothing was changed)")
        print(
            table(
                {"do": arguments.do, "name": arguments.name or "", "database": conf.submissions.database_url}
            )
        )
        return 0
    database = Database(revealed_database_url(conf.submissions))
    database.prepare()
    try:
        if arguments.do == "webhook":
            _print_secret(KeyStore(database), conf.notify.webhook_secret, arguments.name)
        else:
            _do(KeyStore(database), arguments.do, arguments.name)
    finally:
        database.close()
    return 0


def _print_secret(store: KeyStore, secret: SecretRef | None, name: str) -> None:
    if secret is None:
        raise ConfigurationError(
            "notify.webhook_secret is not set here: give the --set, or the --env, that the gateway and the workers have"
        )
    names = [LOOPBACK, *(row.name for row in store.listed())]
    if name not in names:
        raise ConfigurationError(f"there is no key named {name[:80]!r}.{did_you_mean(name, names)}")
    print(secret_of_caller(secret.reveal(), name))


def _do(store: KeyStore, what: str, name: str) -> None:
    now = time.time_ns() // 1000
    if what == "add":
        print(store.add(name, now))
        print(f"the key {name!r}, shown this once: send it as 'Authorization: Bearer KEY'", file=sys.stderr)
        if len(store.listed()) == 1:
            print(_FIRST, file=sys.stderr)
    elif what == "revoke":
        store.revoke(name, now)
        print(f"revoked {name!r}")
    else:
        for row in store.listed():
            times = {"made": row.created_ts, "revoked": row.revoked_ts}
            said = [f"{what} {encode(_TIMESTAMP, [at])[0]}" for what, at in times.items() if at is not None]
            print("  ".join([row.name, *said]))


if __name__ == "__main__":
    sys.exit(run(main))
