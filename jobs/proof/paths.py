"""Every way to score a row, in one list; golden rows, or any rows, on each of them.

A new path is a class with `score(rows)` (see `path_answers.ScoringPath`) and one line in PATHS: `jobs.verify_paths` and the
conformance tests take it from there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, OnescoreError, did_you_mean
from jobs.proof.path_answers import ScoringPath
from jobs.proof.path_async import AsyncPath
from jobs.proof.path_bench import Bench
from jobs.proof.path_functions import DirectPath, Gateway, QueuePath
from jobs.proof.path_http import LEAN_FORMS, STOCK_FORMS, Form, HttpPath
from jobs.proof.path_local import EvaluatorPath, KernelPath, OnlinePath, PyfuncPath
from jobs.proof.path_outcome import Golden, Outcome, compared
from jobs.proof.path_servers import Server
from jobs.proof.path_spark import BatchPath, UdfPath
from jobs.proof.path_stream import StreamPath

__all__ = ["PATHS", "Entry", "chosen_paths", "remote_paths", "verified_paths"]


@dataclass(frozen=True)
class Entry:
    """One path of the list.

    Args:
        name: what the table, the tests and --paths call it; what stands before the first "-" names its group.
        make: makes it; starts what it needs.
        needs_registry: whether it can be asked of a registered version alone.
        url: of the server that it asks, where that runs already.
    """

    name: str
    make: Callable[[Bench], ScoringPath]
    needs_registry: bool = False
    url: str = ""


def _lean(form: Form) -> Callable[[Bench], ScoringPath]:
    return lambda bench: HttpPath(bench.lean(), form, bench.feature_set)


def _async(batch_rows: int) -> Callable[[Bench], ScoringPath]:
    return lambda bench: AsyncPath(bench.submissions(batch_rows), bench.feature_set)


def _stock(form: Form) -> Callable[[Bench], ScoringPath]:
    return lambda bench: HttpPath(bench.stock(), form, bench.feature_set)


def _framework(form: Form, bench: Bench) -> ScoringPath:
    return HttpPath(bench.framework(), form, bench.feature_set)


def _gateway(version: int, form: Form) -> Callable[[Bench], ScoringPath]:
    return lambda bench: HttpPath(Gateway(bench.lambda_function(), version), form, bench.feature_set)


PATHS: tuple[Entry, ...] = (
    Entry("evaluator", EvaluatorPath),
    Entry("online", OnlinePath),
    Entry("kernel", KernelPath),
    Entry("pyfunc", PyfuncPath, needs_registry=True),
    Entry("udf-arrow", partial(UdfPath, kind="arrow"), needs_registry=True),
    Entry("udf-pandas", partial(UdfPath, kind="pandas"), needs_registry=True),
    Entry("batch-parquet", partial(BatchPath, source="parquet")),
    Entry("batch-delta", partial(BatchPath, source="delta")),
    Entry("stream-parquet", partial(StreamPath, source="parquet")),
    Entry("stream-delta", partial(StreamPath, source="delta")),
    Entry("stream-json", partial(StreamPath, source="json")),
    Entry("stream-csv", partial(StreamPath, source="csv")),
    Entry("async-rows", _async(100_000)),
    Entry("async-batch", _async(1)),
    *(Entry(f"lean-{form.name}", _lean(form)) for form in LEAN_FORMS),
    Entry("lambda-v1", _gateway(1, LEAN_FORMS[0])),
    Entry("lambda-v2", _gateway(2, LEAN_FORMS[2])),
    Entry("lambda-direct", lambda bench: DirectPath(bench.lambda_function(), bench.feature_set)),
    Entry("lambda-sqs", lambda bench: QueuePath(bench.lambda_function(), bench.feature_set)),
    Entry("function-inputs", partial(_framework, LEAN_FORMS[0])),
    *(Entry(f"stock-{form.name}", _stock(form), needs_registry=True) for form in STOCK_FORMS),
)
"""All there are, the cheapest first."""


def chosen_paths(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """Return the entries of these names or groups, in the list's order; all of them where no name is given.

    Raises:
        ConfigurationError: there is none of that name.
    """
    groups = {entry.name.partition("-")[0] for entry in entries}
    known = {entry.name for entry in entries} | groups
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(
            f"--paths: there is no path {unknown[0]!r}.{did_you_mean(unknown[0], known)}"
        )
    return [
        entry for entry in entries if not names or {entry.name, entry.name.partition("-")[0]} & set(names)
    ]


def remote_paths(url: str, bench: Bench) -> list[Entry]:
    """Return the paths of a server that runs already: every form that its kind takes.

    Args:
        url: of the server; whether it is a lean or MLflow's own is told by what it answers.
        bench: the model that it should serve.

    Raises:
        UnavailableError: it does not answer. ConfigurationError: it is no URL of a server.
    """
    server = Server(url)
    group, forms = ("stock", STOCK_FORMS) if server.facts() is None else ("lean", LEAN_FORMS)
    feature_set = bench.feature_set
    return [
        Entry(f"{group}-{form.name}", partial(_remote, server, form, feature_set), url=url) for form in forms
    ]


def _remote(server: Server, form: Form, feature_set: FeatureSet, bench: Bench) -> ScoringPath:
    return HttpPath(server, form, feature_set)


def verified_paths(
    entries: Sequence[Entry], bench: Bench, golden: Golden, progress: Callable[[Outcome], None]
) -> list[Outcome]:
    """Return what became of the golden rows on each path; one that cannot be asked does not keep the others from it.

    Args:
        entries: which.
        bench: the model.
        golden: its golden rows.
        progress: is told each outcome as it comes.
    """
    outcomes = []
    for entry in entries:
        outcomes.append(_verified(entry, bench, golden))
        progress(outcomes[-1])
    return outcomes


def _verified(entry: Entry, bench: Bench, golden: Golden) -> Outcome:
    name = f"{entry.name} {entry.url}".strip()
    asked = Outcome(name, len(golden.rows))
    if entry.needs_registry and bench.version is None:
        why = "not asked: it needs a registered version, and --bundle names a directory"
        return dataclasses.replace(asked, status="skipped", problem=why)
    try:
        path = entry.make(bench)
        started = time.perf_counter()
        answers = path.score(golden.rows)
        seconds = time.perf_counter() - started
    except OnescoreError as exc:
        return dataclasses.replace(asked, status="failed", problem=f"could not be asked: {exc}")
    except Exception as exc:  # noqa: BLE001 - whatever Spark, MLflow or a library of theirs raises: the other paths are asked
        first = str(exc).strip().partition("\n")[0][:200]
        return dataclasses.replace(asked, status="failed", problem=f"failed: {type(exc).__name__}: {first}")
    found = compared(name, golden.expected, answers, cannot_carry=path.cannot_carry, seconds=seconds)
    others = sorted(
        {(a.version or "unknown", a.digest) for a in answers if a.digest not in (None, golden.digest)}
    )
    if not others:
        return found
    version, digest = others[0]
    why = (
        f"another model answers: version {version} (digest {digest[:12]}), and not version {bench.model.version} "
        f"(digest {golden.digest[:12]}), which is verified"
    )
    return dataclasses.replace(found, status="other model", problem=why)
