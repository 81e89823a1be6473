"""Rows scored as another platform does, in a subprocess of this machine: where two platforms differ in kernels alone.

numpy chooses its kernels by the features of the CPU and OpenBLAS by the CPU's name, and both can be told to choose as an older CPU
would. So a platform whose description differs from this one's in these alone can be had here; another machine, C library or version
of a library cannot, nor can a CPU that has more than this one. The subprocess scores nothing unless it finds the kernels that the
other platform describes. Run as a module, it is that subprocess.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Columns
from feature_pipelines.schema import Schema
from feature_pipelines.schema_arrow import column_to_arrow, columns_from_arrow
from jobs.proof.worlds import Matrix, World, read_fields
from udfs.bundle import load_bundle
from udfs.platform import describe_platform
from udfs.rows import score_columns

__all__ = ["SubprocessReplay", "environment"]

_ROWS, _SCORED, _ASKED = "rows.arrow", "scored.npz", "asked.json"
_DISABLE, _ENABLE = "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"


@dataclass(frozen=True)
class SubprocessReplay:
    """Scores rows as another platform does; see jobs.proof.worlds.PlatformReplay.

    Args:
        descriptions: what `describe_platform` said there, by platform id, as it is kept beside a prediction log.
        timeout_seconds: for one replay; one that takes longer counts as not to be had.
    """

    descriptions: Mapping[str, Mapping[str, Any]]
    timeout_seconds: float = 300.0

    def __call__(
        self, world: World, platform: str, columns: Columns, n_rows: int
    ) -> tuple[Matrix, Matrix] | None:
        """Return features and scores; see PlatformReplay."""
        there = self.descriptions.get(platform)
        if there is None or world.bundle is None:
            return None
        changes = environment(describe_platform(), there)
        if changes is None:
            return None
        with tempfile.TemporaryDirectory(prefix="onescore-platform-") as scratch:
            directory = Path(scratch)
            _write_rows(directory / _ROWS, world, columns)
            asked = {"bundle": str(world.bundle.resolve()), "digest": world.digest, "platform": dict(there)}
            (directory / _ASKED).write_text(json.dumps(asked), encoding="utf-8")
            if not self._run(directory, changes):
                return None
            with np.load(directory / _SCORED, allow_pickle=False) as scored:
                return scored["features"], scored["score"]

    def _run(self, directory: Path, changes: Mapping[str, str]) -> bool:
        variables = {**os.environ, **changes}
        variables["PYTHONPATH"] = os.pathsep.join(entry or os.curdir for entry in sys.path)
        if (
            _DISABLE in changes
        ):  # what this process does without already stays away; numpy takes one of the two alone
            variables[_DISABLE] = f"{os.environ.get(_DISABLE, '')} {changes[_DISABLE]}".strip()
            variables.pop(_ENABLE, None)
        command = [sys.executable, "-m", "jobs.proof.platforms", str(directory)]
        try:
            done = subprocess.run(
                command,
                env=variables,
                capture_output=True,
                timeout=self.timeout_seconds,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0 and (directory / _SCORED).is_file()


def environment(here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the variables that make a process here choose its kernels as there; None where that takes more than variables.

    Args:
        here, there: of `describe_platform`.
    """
    if _besides_kernels(here) != _besides_kernels(there):
        return None
    ours, theirs = _dispatched(here), _dispatched(there)
    if not theirs <= ours:
        return None
    changes = {}
    if ours - theirs:
        changes[_DISABLE] = " ".join(sorted(ours - theirs))
    if here["blas"] != there["blas"]:
        kernel = _kernel(here["blas"], there["blas"])
        if kernel is None:
            return None
        changes["OPENBLAS_CORETYPE"] = kernel
    return changes


def _besides_kernels(description: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in description.items() if name not in ("numpy_dispatch", "blas")}


def _dispatched(description: Mapping[str, Any]) -> set[str]:
    """The features by which numpy chooses kernels; it lists others, which it does not look at."""
    dispatch = importlib.import_module("numpy._core._multiarray_umath").__cpu_dispatch__
    return set(description["numpy_dispatch"]) & set(dispatch)


def _kernel(here: list[str], there: list[str]) -> str | None:
    """Return the name of the other side's kernel if it is the same OpenBLAS: "openblas 0.3.31 Haswell"."""
    if len(here) != 1 or len(there) != 1:
        return None
    ours, theirs = here[0].rsplit(" ", 1), there[0].rsplit(" ", 1)
    return theirs[1] if ours[0] == theirs[0] and ours[0].startswith("openblas ") else None


def _write_rows(path: Path, world: World, columns: Columns) -> None:
    sources = world.scorer.feature_set.sources
    names = read_fields(world.scorer.feature_set)
    batch = pa.record_batch([column_to_arrow(sources[name], columns[name]) for name in names], names=names)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _score(directory: Path) -> int:
    """Score what was asked; 1 where this process has not the kernels that were asked for."""
    asked = json.loads((directory / _ASKED).read_text(encoding="utf-8"))
    if environment(describe_platform(), asked["platform"]) != {}:
        return 1
    scorer = load_bundle(Path(asked["bundle"]), expected_digest=asked["digest"], allow_tolerance=True)
    with pa.OSFile(str(directory / _ROWS)) as file:
        table = pa.ipc.open_file(file).read_all()
    batch = table.combine_chunks().to_batches()[0]
    fields = Schema(tuple(scorer.feature_set.sources[name] for name in read_fields(scorer.feature_set)))
    columns, errors = columns_from_arrow(fields, batch)
    scored = score_columns(scorer, columns, errors, batch.num_rows, with_features=True)
    features = np.full((len(scorer.feature_set.feature_names), batch.num_rows), np.nan)
    scores = scorer.output.scores(scored.outputs)
    score = np.full((batch.num_rows, *scores.shape[1:]), np.nan)
    features[:, scored.index] = scored.features
    score[scored.index] = scores
    np.savez(directory / _SCORED, features=features, score=score)
    return 0


if __name__ == "__main__":
    sys.exit(_score(Path(sys.argv[1])))
