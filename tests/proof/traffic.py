"""History served as it happened, by a good process and, a share of it, by faulty ones beside it; and the truth about each row.

One pass over the traffic serves every variant (a set of faults) at the moment at which the good process is asked: through the same
store, as it is then, a model, and a prediction log of the variant's own. What each fault did is written to a file that nothing but
the test reads: of each row the parts touched, and which of them the difference takes. That is found by serving the row again with
parts left out, one after the other, as long as the answer stays that of the faulty process.

    python -m tests.proof.traffic WORLD OUT FROM TO SEED ROWS VARIANT...

does a pass in a process of its own, as another platform needs.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.stores.base import Answer, Key, OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs.online.replay import Replayed, Window, replay
from jobs.online.replay_source import RequestSource, ViewSource
from jobs.online.replay_store import ReplayStore
from jobs.tables.snapshot import pin_snapshot
from tests.proof.faults import (
    CODE,
    MODEL,
    PATCH,
    PLATFORM,
    ModelParts,
    Touched,
    is_faulty,
    model_parts,
    store_answer,
    touch_request,
)
from tests.proof.worlds import REQUESTS, FlightsWorld
from tests.toy.past import Past
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.scorer import Scorer

__all__ = [
    "CLEAN",
    "NOTHING",
    "SHARE",
    "Served",
    "TruthRow",
    "on_other_platform",
    "serve",
    "serve_elsewhere",
    "variant_name",
]

CLEAN = "clean"
NOTHING = "nothing"
"""The variant without a fault: what the good process answers, beside the truth of the others."""
SHARE = 0.3
_TRUTH = "truth.jsonl"
_CONFIGURATION = "c0ffee"
ROOT = Path(__file__).resolve().parents[2]


def variant_name(faults: Sequence[str]) -> str:
    """Return what a set of faults is called."""
    return "+".join(faults) or NOTHING


@dataclass(frozen=True)
class TruthRow:
    """What happened to one row under a variant.

    Args:
        variant, row_id: of which row.
        outcome: the answer: features, score and label by their digits, or the error's code.
        differs: whether the good process's answer is another.
        parts: the causes by part that the faults touched.
        needed: the smallest sets of parts (as found by leaving parts out in either order) that give this answer.
    """

    variant: str
    row_id: str
    outcome: str
    differs: bool
    parts: Mapping[str, Sequence[str]]
    needed: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Served:
    """A pass: where the logs are, one directory a variant, and CLEAN; the truth; and what the replay counted, if it ran here."""

    directory: Path
    replayed: Replayed | None = None

    def log(self, variant: str) -> Path:
        """Return a variant's prediction log."""
        return self.directory / variant

    def truth(self) -> Iterator[TruthRow]:
        """Return what happened to the rows that faulty processes served."""
        return read_truth(self.directory)


def read_truth(directory: Path) -> Iterator[TruthRow]:
    """Return what a pass wrote down."""
    for line in (directory / _TRUTH).read_text().splitlines():
        yield TruthRow(**json.loads(line))


class _FaultyStore:
    """What a faulty process reads: the real store's rows, and of some views what faults make of them."""

    def __init__(self, store: OnlineStore, past: Past) -> None:
        self._store, self._past = store, past
        self.as_of, self.faults, self.views, self.touched = 0, (), None, Touched()

    def set(self, as_of: int, faults: Sequence[str], views: set[str] | None, touched: Touched) -> None:
        """Say what is read next: as of when, under which faults, and which views they reach (None: all)."""
        self.as_of, self.faults, self.views, self.touched = as_of, faults, views, touched

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """See OnlineStore."""
        found = self._store.read(wanted)
        return [
            [
                store_answer(view, key, row, self.as_of, self.faults, self._past, self.touched)
                if self.views is None or view.name in self.views
                else row
                for key, row in zip(keys, rows, strict=True)
            ]
            for (view, keys), rows in zip(wanted, found, strict=True)
        ]

    def close(self) -> None:
        """See OnlineStore."""


class _Processes:
    """The good process and the faulty ones."""

    def __init__(
        self,
        world: FlightsWorld,
        store: OnlineStore,
        past: Past,
        variants: Sequence[Sequence[str]],
        out: Path,
    ) -> None:
        self.clock = 0
        self._world, self._out = world, out
        self._store = _FaultyStore(store, past)
        self._models: dict[ModelParts, Scorer] = {}
        self._silent: dict[ModelParts, OnlineScorer] = {}
        self.good = self._process(ModelParts(), store, out / CLEAN)
        self._faulty = {
            variant_name(faults): (
                tuple(faults),
                self._process(model_parts(faults, Touched()), self._store, out / variant_name(faults)),
            )
            for faults in variants
        }

    def _process(self, parts: ModelParts, store: Any, log: Path | None) -> OnlineScorer:
        return OnlineScorer(
            self.model(parts),
            store,
            clock=lambda: self.clock,
            log=None if log is None else PredictionLog(log, lambda: self.clock, flush_seconds=3600.0),
            model_version=self._world.version(parts.name),
            configuration_digest=_CONFIGURATION,
        )

    def model(self, parts: ModelParts) -> Scorer:
        """Return a loaded model, once."""
        if parts not in self._models:
            scorer = load_bundle(self._world.bundle(parts.name), allow_tolerance=True)
            if parts.is_patched:
                scorer = dataclasses.replace(scorer, feature_set=_patched(scorer.feature_set))
            self._models[parts] = scorer
        return self._models[parts]

    def serve(self, row: Mapping[str, Any], good: str) -> Iterator[TruthRow]:
        """Serve a row by every faulty process."""
        for name, (faults, process) in self._faulty.items():
            touched = Touched()
            sent = touch_request(row, faults, touched)
            model_parts(faults, touched)
            self._store.set(row["as_of_ts"], faults, None, touched)
            outcome = _outcome(process.answer([sent], with_features=True)[0])
            needed = self._needed(row, faults, touched, outcome) if outcome != good else []
            parts = {part: sorted(causes) for part, causes in touched.parts.items()}
            yield TruthRow(name, row["flight_id"], outcome, outcome != good, parts, needed)

    def _needed(
        self, row: Mapping[str, Any], faults: Sequence[str], touched: Touched, outcome: str
    ) -> list[list[str]]:
        parts = list(touched.parts)
        if len({tuple(sorted(causes)) for causes in touched.parts.values()}) < 2:
            return [parts]  # whichever of them it takes, the cause is the same
        found: list[list[str]] = []
        for order in (parts, parts[::-1]):
            kept = list(order)
            for part in order:
                fewer = [one for one in kept if one != part]
                if self._served_with(row, faults, set(fewer)) == outcome:
                    kept = fewer
            if sorted(kept) not in found:
                found.append(sorted(kept))
        return found

    def _served_with(self, row: Mapping[str, Any], faults: Sequence[str], parts: set[str]) -> str:
        """Return the answer to a row if the faults touched these parts alone."""
        faulty = touch_request(row, faults, Touched())
        sent = {name: faulty[name] if name in parts else value for name, value in row.items()}
        model = ModelParts(MODEL in parts, CODE in parts, PATCH in parts)
        self._store.set(row["as_of_ts"], faults, parts, Touched())
        if model not in self._silent:
            self._silent[model] = self._process(model, self._store, None)
        return _outcome(self._silent[model].answer([sent], with_features=True)[0])

    def close(self) -> None:
        """Write all logs."""
        self.good.close()
        for _, process in self._faulty.values():
            process.close()


def _patched(feature_set: FeatureSet) -> FeatureSet:
    """Return the set with another body for one function, as if somebody had replaced it in memory; its source says nothing of it."""

    def with_slack(function: Any) -> Any:
        def patched(route_is_late_share_7d: Any) -> Any:
            return route_is_late_share_7d * 1.125

        patched.__name__ = function.__name__
        patched.__annotations__ = function.__annotations__
        patched.__globals__.update(
            {name: value for name, value in function.__globals__.items() if name == "Float64"}
        )
        return patched

    features = tuple(
        with_slack(one) if one.__name__ == "route_late_share_week" else one for one in feature_set.features
    )
    return dataclasses.replace(feature_set, features=features)


def _outcome(answer: Mapping[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"]["code"])
    return json.dumps([answer["score"], answer.get("label"), list(answer["features"].values())])


def serve(
    world: FlightsWorld,
    variants: Sequence[Sequence[str]],
    out: Path,
    *,
    seed: int = 0,
    rows: int | None = None,
    source: str = REQUESTS,
) -> Served:
    """Replay the world's requests to the good process, and a share of them to a faulty one of each variant too.

    Args:
        world: what is replayed, and with which models.
        variants: sets of faults; none for a clean pass.
        out: an empty directory.
        seed: of the choice of rows.
        rows: at most so many requests; None: all.
        source: the table of requests.
    """
    out.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{out}/store.db"
    conf = world.conf()
    with closing(open_store(url, timeout_ms=30_000)) as store, (out / _TRUTH).open("w") as truth:
        features = load_bundle(world.bundle("reference"), allow_tolerance=True).feature_set
        mine = ReplayStore(store, url, conf, features.views, "proof")
        mine.begin(world.from_ts, reset=False, say=lambda _: None)
        sources = [ViewSource(plan.view, plan.snapshot) for plan in mine.plans]
        processes = _Processes(world, store, Past(sources, world.to_ts), variants, out)

        def ask(asked: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
            processes.clock = asked[0]["as_of_ts"]
            answers = processes.good.answer(asked, with_features=bool(variants))
            for row, answer in zip(asked, answers, strict=True):
                if variants and is_faulty(row["flight_id"], seed, SHARE):
                    for found in processes.serve(row, _outcome(answer)):
                        truth.write(json.dumps(dataclasses.asdict(found)) + "\n")
            return answers

        requests = RequestSource(features, pin_snapshot(world.table(source)))
        with closing(processes):
            done = replay(
                store, sources, requests, Window(world.from_ts, world.to_ts, rows), ask, mine.advance
            )
        mine.finish()
    return Served(out, done)


def serve_elsewhere(
    world: FlightsWorld,
    variants: Sequence[Sequence[str]],
    out: Path,
    *,
    seed: int,
    rows: int | None = None,
    environment: Mapping[str, str],
) -> Served:
    """Do a pass in a process of its own, whose numpy may have been told to do without some of the processor's instructions."""
    numbers = [world.from_ts, world.to_ts, seed, rows or 0]
    command = [sys.executable, "-m", "tests.proof.traffic", str(world.root), str(out), *map(str, numbers)]
    command += map(variant_name, variants)
    done = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return Served(out)


def on_other_platform(variant: str, here: TruthRow, there: TruthRow, good: str, alone: str) -> TruthRow:
    """Return the truth about a row that a faulty process served elsewhere.

    Args:
        variant: what the row's faults and the platform together are called.
        here, there: the row under the same faults, served here and elsewhere.
        good, alone: the answers without faults, here and elsewhere.
    """
    parts = {**there.parts, PLATFORM: ["PLATFORM"]}
    if there.outcome == here.outcome:
        needed = here.needed
    elif there.outcome == alone:
        needed = [[PLATFORM]]
    else:
        needed = [[*some, PLATFORM] for some in there.needed]
    return TruthRow(variant, here.row_id, there.outcome, there.outcome != good, parts, needed)


def main(argv: Sequence[str]) -> int:
    """Do a pass; see the module's docstring."""
    root, out, from_ts, to_ts, seed, rows, *variants = argv
    world = FlightsWorld(Path(root), int(from_ts), int(to_ts))
    faults = [() if name == NOTHING else tuple(name.split("+")) for name in variants]
    serve(world, faults, Path(out), seed=int(seed), rows=int(rows) or None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
