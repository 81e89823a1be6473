"""The online store of a replay: its own, brought to the beginning of the window, and told apart from one that is further.

While a replay runs, the store says so where it says what W was read from; whoever finds that mark finds an aborted replay, and
starts over with empty views. A replay that ended leaves a store like any other at W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from feature_pipelines.errors import ConfigurationError, RunConflictError, UnavailableError
from feature_pipelines.stores.base import OnlineStore, ViewState
from feature_pipelines.stores.opening import safe_url
from feature_pipelines.views import FeatureView
from jobs.online.instants import shown
from jobs.online.materialise import ViewPlan, check_limit, plan_view
from jobs.online.materialise_task import MaterialiseTask
from jobs.online.store_conf import store_identity
from jobs.runs.conf import Conf

__all__ = ["ReplayStore", "default_logs", "default_store", "require_other"]

_MARK = "replay:"


class ReplayStore:
    """A store under replay.

    Args:
        store, url: the store.
        conf: the tables, and the limit on bad rows.
        views: all of the model's.
        replay_id: named in the store while the replay runs.
    """

    def __init__(
        self, store: OnlineStore, url: str, conf: Conf, views: Sequence[FeatureView], replay_id: str
    ) -> None:
        self.store, self._url, self._conf, self._views = store, url, conf, views
        self._source = f"{_MARK}{replay_id}"
        self._epochs: dict[str, int] = {}
        self.plans: list[ViewPlan] = []

    def begin(self, from_ts: int, *, reset: bool, say: Callable[[str], None]) -> None:
        """Write every row visible at a time, and set W to it.

        Raises:
            ConfigurationError: the store is beyond that time, or holds other schemas, and `reset` is not asked for.
            ContractError: too many rows break the contract.
        """
        if reset or self._is_to_be_emptied(from_ts, say):
            for view in self._views:
                self.store.reset(view)
        for view in self._views:
            before = self.store.register(view)
            plan = plan_view(self._conf, view, from_ts, before)
            self._epochs[view.name] = before.epoch
            self.plans.append(plan)
            written = self._fill(plan)
            self._advance(view, from_ts, self._source)
            say(f"  {view.name}: at {shown(from_ts)}, read {plan.rows:,} rows, wrote {written:,}")

    def advance(self, through_ts: int) -> None:
        """Set W of all views.

        Raises:
            RunConflictError: another process uses the store.
        """
        for view in self._views:
            self._advance(view, through_ts, self._source)

    def finish(self) -> None:
        """Take the mark away: from now on the store is one that was materialised through W."""
        through = self.store.through(self._views)
        for plan in self.plans:
            self._advance(plan.view, through[plan.view.name] or 0, plan.source)

    def _advance(self, view: FeatureView, through_ts: int, source: str) -> None:
        after = self.store.advance(view, through_ts, source=source, epoch=self._epochs[view.name])
        if after != through_ts:
            raise RunConflictError(
                f"view {view.name!r}: the store is at {shown(after)}, the replay at {shown(through_ts)}; another process writes "
                f"to {safe_url(self._url)}. A replay needs a store of its own",
                view=view.name,
            )

    def _is_to_be_emptied(self, from_ts: int, say: Callable[[str], None]) -> bool:
        try:
            found = self.store.states(self._views)
        except (
            UnavailableError
        ):  # a file that is not there yet; a server that is down says so when it is written to
            return False
        states = {name: state for name, state in found.items() if state is not None}
        if any(state.source.startswith(_MARK) or state.rebuilding for state in states.values()):
            say("  a replay into this store was not finished: starting over")
            return True
        for view in self._views:
            self._require_usable(view, states.get(view.name), from_ts)
        return False

    def _require_usable(self, view: FeatureView, state: ViewState | None, from_ts: int) -> None:
        if state is None:
            return
        problem = ""
        if state.through_ts is not None and state.through_ts > from_ts:
            problem = f"is at {shown(state.through_ts)}, beyond --from {shown(from_ts)}"
        elif state.schema != view.schema_digest():
            problem = f"has schema {state.schema}, declared is {view.schema_digest()}"
        if problem:
            raise ConfigurationError(
                f"store {safe_url(self._url)}: view {view.name!r} {problem}; --reset empties the store's views first, --store "
                "names another store",
                view=view.name,
            )

    def _fill(self, plan: ViewPlan) -> int:
        """Do in this process what the tasks of jobs.materialize_features do."""
        task = MaterialiseTask(
            view=plan.view,
            portions=plan.portions,
            source_schema=plan.snapshot.schema.serialize().to_pybytes(),
            through_ts=plan.through_ts,
            store_url=self._url,
            timeout_ms=self._conf.store.write_timeout_ms,
            batch_rows=self._conf.score.batch_rows,
        )
        results = [task.run(number, self.store) for number in range(len(plan.portions))]
        check_limit(plan, results, self._conf.quarantine.max_share)
        return sum(result.written for result in results)


def default_store(conf: Conf) -> str:
    """Return the URL of the store that replays fill where none is named."""
    return f"sqlite:///{conf.storage.root}/replay.db"


def default_logs(conf: Conf) -> Path:
    """Return the directory below which replays log where none is named."""
    return Path(conf.storage.root) / "replays"


def require_other(url: str, production: str) -> None:
    """Refuse to replay into the store that the configuration serves from, however the two URLs are written.

    See `store_identity` for what cannot be told here.

    Raises:
        ConfigurationError: the two are one.
    """
    if store_identity(url) == store_identity(production):
        raise ConfigurationError(
            f"--store {safe_url(url)} is store.url, which is served from; a replay needs a store of its own"
        )
