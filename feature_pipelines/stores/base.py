"""What an online store is: one interface, one order of rows, one rule for what a row found there means.

A store holds at most one row per (view, entity): the newest in the total order (event_ts, created_ts, digest), whoever writes,
in whatever order, however often. A row that deletes is kept, so that an older one cannot bring the entity back. Beside the
rows it holds, per view, what they hold (schema digest) and how far they go (W, "materialised through"). This module knows
nothing of backends, payloads or requests; it reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from feature_pipelines.errors import ContractError, RunConflictError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.views import FeatureView

__all__ = [
    "Answer",
    "Key",
    "OnlineStore",
    "StoredRow",
    "ViewState",
    "being_rebuilt",
    "check_schema",
    "foreign_value",
    "not_served",
    "other_schema",
    "resolve",
    "superseded",
    "unreadable",
]

Key = tuple[str | int, ...]


class StoredRow(NamedTuple):
    """One entity's newest row of a view.

    Args:
        event_ts, created_ts: int64 microseconds, UTC.
        digest: 32 bytes, the row's `packed.row_digests`: the last word where both times are equal.
        is_deleted: whether it is a tombstone.
        payload: the values (`encoding`); b"" for a tombstone.
    """

    event_ts: int
    created_ts: int
    digest: bytes
    is_deleted: bool
    payload: bytes

    @property
    def order(self) -> tuple[int, int, bytes]:
        """Its place in the total order; equal places are the same row."""
        return self[:3]


Answer = StoredRow | UnavailableError | ContractError | None
"""What a store says of one key: its row, that it has none, or why it cannot say.

UnavailableError (of all keys of the view): it was never materialised, or is being rebuilt. ContractError: the view is held under
another schema (all of its keys), or this one value cannot be read. None of these messages names the store: they reach clients.
"""


class ViewState(NamedTuple):
    """What a store says about a view as a whole.

    Args:
        schema: `FeatureView.schema_digest` of its rows.
        through_ts: W: every row visible at W was written; None = never materialised.
        source: what W was read from, in the writer's words (a table version), or without W what its first writer began to read;
            "" = not said.
        epoch: changes whenever the view is reset, so that a writer that began before can tell.
        rebuilding: whether it was reset and no W has been set since; it cannot be read meanwhile.
    """

    schema: str
    through_ts: int | None
    source: str
    epoch: int
    rebuilding: bool


class OnlineStore(Protocol):
    """One store; safe to use from many threads, and again in a child after fork.

    Every method raises UnavailableError (retryable) if the store does not answer within its deadline, and all but `read`
    ContractError if it holds the view under another schema.
    """

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """Return the newest row of each key, None where there is none: one round trip, in the shape and order asked.

        A view that cannot be served, or a value that cannot be read, is said in the places of its keys and disturbs no other. A
        view without W is not served: a store that was emptied is not one that has no rows.
        """
        ...

    def write(self, view: FeatureView, keys: Sequence[Key], rows: Sequence[StoredRow]) -> int:
        """Store each row unless the key's row is the same or newer; return how many changed the store.

        Rows are written in parts: if it fails, some may have been; writing all of them again completes it.
        """
        ...

    def through(self, views: Sequence[FeatureView]) -> dict[str, int | None]:
        """Return W of each view by name, microseconds; None = never materialised."""
        ...

    def advance(
        self, view: FeatureView, through_ts: int, *, source: str = "", epoch: int | None = None
    ) -> int:
        """Set W unless it is later already; return W afterwards.

        Args:
            view: the view.
            through_ts: the new W, microseconds.
            source: remembered beside W.
            epoch: of the state that the caller began with; None = whatever it is now.

        Raises:
            RunConflictError: the view was reset since that epoch.
        """
        ...

    def register(self, view: FeatureView, *, source: str = "") -> ViewState:
        """Return the view's state, having made store and view known where they are not yet.

        Args:
            view: the view.
            source: remembered where neither W nor a source is: what the first rows are about to be read from.
        """
        ...

    def states(self, views: Sequence[FeatureView]) -> dict[str, ViewState | None]:
        """Return each view's state by name, whatever its schema; None = not known."""
        ...

    def reset(self, view: FeatureView) -> ViewState:
        """Drop the view's rows and W, and hold it under the schema declared now; reads are refused until W is set again."""
        ...

    def delete(self, view: FeatureView, keys: Sequence[Key]) -> int:
        """Forget entities, tombstones too; return how many there were. An older row written later is stored again."""
        ...

    def purge(self, view: FeatureView, event_before_ts: int) -> int:
        """Remove, in small steps beside running writers, rows with event_ts before that; return how many."""
        ...

    def close(self) -> None:
        """Release connections; the store must not be used afterwards."""
        ...


def resolve(view: FeatureView, row: StoredRow | None, as_of: int) -> Status:
    """Return what a stored row is to a request as of a time: the as-of rule, applied to the newest row alone.

    - no row: NOT_FOUND
    - a row not visible yet (event_ts or created_ts > as_of): FUTURE. What was the newest then, the store no longer knows.
    - a tombstone: NOT_FOUND
    - event_ts < as_of - ttl: EXPIRED
    - else: PRESENT

    Args:
        view: gives the ttl.
        row: what the store returned for the key.
        as_of: microseconds, UTC.
    """
    if row is None:
        return Status.NOT_FOUND
    if row.event_ts > as_of or row.created_ts > as_of:
        return Status.FUTURE
    if row.is_deleted:
        return Status.NOT_FOUND
    if view.ttl_seconds is not None and row.event_ts < as_of - view.ttl_seconds * 1_000_000:
        return Status.EXPIRED
    return Status.PRESENT


def check_schema(view: FeatureView, held: str, declared: str, url: str) -> None:
    """Raise the ContractError of a store that holds another schema than declared."""
    if held != declared:
        raise other_schema(view, held, declared, url)


def other_schema(view: FeatureView, held: str, declared: str, url: str) -> ContractError:
    """Return the error for a view whose rows were written under another schema."""
    return ContractError(
        f"view {view.name!r}: the store holds it under schema {held}, declared is {declared}; serve with the "
        "declaration that wrote it, or run jobs.materialize_features with --rebuild",
        view=view.name,
        held=held,
        declared=declared,
        url=url,
    )


def not_served(
    view: FeatureView,
    schema: str | None,
    declared: str,
    through_ts: int | None,
    *,
    rebuilding: bool,
    url: str,
) -> UnavailableError | ContractError | None:
    """Return why a view cannot be read in the state that a store has of it; None = it can.

    Args:
        view: the view.
        schema: that of its rows; None = the store does not know the view.
        declared: that of the declaration.
        through_ts: W.
        rebuilding: as in ViewState.
        url: the store's, for the log.
    """
    if schema is not None and schema != declared:
        return other_schema(view, schema, declared, url)
    if schema is not None and rebuilding:
        return being_rebuilt(view, url)
    if schema is None or through_ts is None:
        return UnavailableError(
            f"view {view.name!r}: it was never materialised into the online store, or the store has lost it; run "
            "jobs.materialize_features",
            view=view.name,
            url=url,
        )
    return None


def being_rebuilt(view: FeatureView, url: str) -> UnavailableError:
    """Return the error for reading a view that was reset and is not complete again."""
    return UnavailableError(
        f"view {view.name!r}: its rows in the online store are being rebuilt; it can be read when that is done",
        view=view.name,
        url=url,
    )


def foreign_value(view: FeatureView, version: int, url: str, *, of_row: bool = True) -> ContractError:
    """Return the error for a value that is not of a store's layout; what the store says of the view itself, if not `of_row`."""
    return unreadable(
        view, f"is not of layout version {version}; another program or version wrote it", url, of_row=of_row
    )


def unreadable(view: FeatureView, problem: str, url: str = "", *, of_row: bool = True) -> ContractError:
    """Return the error for one stored value that cannot be read; `concerns_row` in its evidence says that others can."""
    return ContractError(
        f"view {view.name!r}: a stored value {problem}", view=view.name, url=url, concerns_row=of_row
    )


def superseded(view: FeatureView, url: str) -> RunConflictError:
    """Return the error for a writer whose view was reset under its hands."""
    return RunConflictError(
        f"view {view.name!r}: the online store was reset while this run was writing; run it again",
        view=view.name,
        url=url,
    )
