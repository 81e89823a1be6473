"""A model on disk: a plain directory that any process loads without MLflow, and proves before it scores.

    model.json       what it is: format and contract version, fingerprint, constants, output, platform, certification
    features/*.py    its own copy of its feature functions
    estimator.skops  the fitted estimator (no pickle), see stored_estimator
    trees.npz        the estimator as flat arrays, only if they gave the estimator's bits on the certification rows
    golden.json      golden rows with the bits of their features and scores
    manifest.json    the SHA-256 of each of these; its own SHA-256 is the model's digest
    measured.json    what certification measured: for how many rows there was time, seconds, costs; no part of the model's content

The same training on the same platform gives the same digest.

Loading checks every file against the manifest, the manifest against the expected digest, the contract version, the fingerprint,
and replays the golden rows; the compiled loop of flat trees repeats that in whichever process it comes into use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.errors import ModelError, ModelIntegrityError, VerificationError
from feature_pipelines.evaluate import check_row_local, constants_from_json, evaluate
from feature_pipelines.fingerprint import fingerprint
from feature_pipelines.packaged import import_packaged, load_reference, package_sources
from feature_pipelines.parity import differing_rows, row_ulps
from udfs.certify import Certificate, certify, certify_forms
from udfs.golden import GoldenRows, record_golden, replay_golden
from udfs.platform import describe_platform, platform_id
from udfs.scorer import (
    CONTRACT_VERSION,
    Evaluator,
    LibraryEvaluator,
    OutputSpec,
    Scorer,
    Strategy,
    use_one_thread,
)
from udfs.stored_estimator import dump_estimator, libraries_of, load_estimator
from udfs.strategies import STRATEGIES, choose_strategy, measure_cost
from udfs.trees import FlatTrees
from udfs.trees_export import certify_trees, export_trees

__all__ = ["FORMAT_VERSION", "bundle_digest", "load_bundle", "read_golden", "write_bundle"]

FORMAT_VERSION = 3
"""The newest version of the directory's layout that this release writes and reads. Later releases load every earlier format.

1: scikit-learn alone, one strategy. 2: other strategies, boosters in the estimator's file, more kinds of flat trees. 3: several classes;
measured.json beside the manifest, where earlier formats have in model.json what it holds.
"""

_MEASURED = "measured.json"
_MEASURED_FACTS = ("conditions", "rejected", "cost", "seconds")
_GOLDEN_ROWS = 64
_STORED_ROWS = 2_048


def write_bundle(
    directory: Path,
    *,
    name: str,
    reference: str,
    constants: Mapping[str, Any],
    estimator: Any,
    output: OutputSpec,
    columns: Columns,
    n_rows: int,
    tolerance_ulps: int = 0,
    strategies: Sequence[Strategy] = STRATEGIES,
) -> str:
    """Write a model and return its digest (SHA-256, hex).

    Args:
        directory: created; must not exist.
        name: the model's name.
        reference: "module:NAME" of the feature set.
        constants: fitted constants as JSON values.
        estimator: a fitted estimator of scikit-learn, LightGBM or XGBoost that takes the features in the set's order. Its
            `n_jobs` becomes 1.
        output: what its scores mean.
        columns: certification rows: every source field, n_rows each. They decide whether flat trees are used, else by which
            strategy the estimator is asked (see `udfs.strategies`), and some of them become golden rows.
        n_rows: how many certification rows; at least 1.
        tolerance_ulps: how far a score may be off on another platform where the configuration allows a tolerance; 0 = not at all.
        strategies: ways of asking the estimator, to be tried in this order.

    Raises:
        ModelError: the estimator's classes are not the output's, or not in its order.
        VerificationError: a score differs from call to call, or depends on what stands beside it under every strategy; the
            estimator changes by being stored; a feature differs between JSON and Arrow.
        ModelIntegrityError: the estimator contains a type that is not trusted.
        DefinitionError: a feature is not row-local.
    """
    _check_classes(estimator, output)
    use_one_thread(estimator)
    feature_set = load_reference(reference)
    arguments = constants_from_json(constants)
    check_row_local(feature_set, columns, arguments, n_rows)
    directory.mkdir(parents=True)
    _write_features(directory / "features", reference)
    stored = dump_estimator(directory / "estimator.skops", estimator)
    matrix = evaluate(feature_set, columns, arguments, n_rows)
    _check_stored(estimator, stored, output, matrix)
    golden = np.unique(np.linspace(0, n_rows - 1, min(_GOLDEN_ROWS, n_rows)).astype(np.int64))
    evaluator, certification = _certified(directory, stored, output, matrix, golden.tolist(), strategies)
    forms = certify_forms(feature_set, arguments, columns, n_rows)
    if forms.differing:
        raise VerificationError(
            f"the same rows give other features as JSON and as Arrow: {forms.note} has other bits, worst by {forms.worst_ulps} ULP "
            f"(row {forms.worst_row} of the certification rows)",
            row=forms.worst_row,
        )
    certification["conditions"].append(forms.to_json())
    scorer = Scorer(feature_set, arguments, evaluator, output, {})
    _write_json(
        directory / "golden.json",
        record_golden(scorer, {n: take(c, golden) for n, c in columns.items()}, len(golden)),
    )
    measured = {name: certification.pop(name) for name in _MEASURED_FACTS if name in certification}
    module, _, attribute = reference.partition(":")
    _write_json(
        directory / "model.json",
        {
            "format_version": FORMAT_VERSION,
            "contract_version": CONTRACT_VERSION,
            "name": name,
            "feature_set": {"module": module.rpartition(".")[2], "name": attribute or "FEATURES"},
            "feature_fingerprint": fingerprint(feature_set),
            "feature_names": list(feature_set.feature_names),
            "constants": dict(constants),
            "output": output.to_json(),
            "tolerance_ulps": tolerance_ulps,
            "certification": certification,
            "platform_id": platform_id(),
            "platform": describe_platform(),
        },
    )
    files = {str(p.relative_to(directory)): p for p in sorted(directory.rglob("*")) if p.is_file()}
    _write_json(directory / "manifest.json", {name: _sha256(path) for name, path in files.items()})
    _write_json(directory / _MEASURED, measured)
    return bundle_digest(directory)


def bundle_digest(directory: Path) -> str:
    """Return the SHA-256 (hex) of a bundle's manifest, which is the identity of the model's content."""
    return _sha256(directory / "manifest.json")


def load_bundle(
    directory: Path, *, expected_digest: str | None = None, allow_tolerance: bool = False
) -> Scorer:
    """Load a model, refuse it if anything in it is not what was logged, and replay its golden rows.

    Args:
        directory: what `write_bundle` wrote.
        expected_digest: the digest that the registry holds; None checks the files against their own manifest alone.
        allow_tolerance: whether features and scores within the model's recorded tolerance will do where bits differ; a missing
            value is never within a tolerance of a number.

    Raises:
        ModelError: it is no bundle, or another contract or a later format wrote it.
        ModelIntegrityError: a file is changed, missing or new, a type is untrusted, or the golden rows differ.
    """
    files, golden = _opened(directory, expected_digest)
    feature_set, info = golden.feature_set, golden.info
    output = OutputSpec.from_json(info["output"])
    evaluator = _load_evaluator(files, info, output)
    scorer = Scorer(feature_set, constants_from_json(info["constants"]), evaluator, output, info)
    verified = replay_golden(scorer, golden, allow_tolerance)
    return Scorer(feature_set, scorer.constants, evaluator, output, info, verified)


def read_golden(directory: Path, expected_digest: str | None = None) -> GoldenRows:
    """Return the golden rows of a model whose files are those that were logged, whether or not it scores the same here.

    Args:
        directory, expected_digest: see `load_bundle`, as are the errors; golden rows that differ are none.

    Raises:
        ModelError: see `load_bundle`.
        ModelIntegrityError: a file is changed, missing or new.
    """
    return _opened(directory, expected_digest)[1]


def _opened(directory: Path, expected_digest: str | None) -> tuple[dict[str, bytes], GoldenRows]:
    """Return a model's checked files, and what they say; the estimator is not loaded."""
    files = _checked_files(directory, expected_digest)
    model = json.loads(files["model.json"])
    if model["format_version"] > FORMAT_VERSION or model["contract_version"] != CONTRACT_VERSION:
        raise ModelError(
            f"model {model['name']!r} was written with contract_version {model['contract_version']} and format_version "
            f"{model['format_version']}; this release runs contract_version {CONTRACT_VERSION} and format_version up to "
            f"{FORMAT_VERSION}. Use the release that wrote it, or train again"
        )
    where = model["feature_set"]
    sources = {
        n.removeprefix("features/"): content for n, content in files.items() if n.startswith("features/")
    }
    feature_set = import_packaged(sources, where["module"], where["name"], model["feature_fingerprint"])
    certification = {**model["certification"], **_measured_of(files.get(_MEASURED, b""))}
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    info = {**model, "certification": certification, "digest": digest}
    return files, GoldenRows.of(info, feature_set, json.loads(files["golden.json"]))


def _measured_of(content: bytes) -> dict[str, Any]:
    """Return what was measured, which nothing vouches for and nothing depends on; nothing where it is not there or damaged."""
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return {name: said[name] for name in _MEASURED_FACTS if name in said} if isinstance(said, dict) else {}


def _write_features(directory: Path, reference: str) -> None:
    directory.mkdir()
    for name, content in package_sources(reference).items():
        (directory / name).write_bytes(content)


def _check_classes(estimator: Any, output: OutputSpec) -> None:
    """Raise unless the columns of the estimator's probabilities are the output's classes, by name or by number from 0."""
    if not output.classes:
        return
    classes = np.asarray(getattr(estimator, "classes_", ()))
    found = [str(int(one)) if classes.dtype.kind == "f" else str(one) for one in classes.tolist()]
    if found not in (list(output.classes), [str(i) for i in range(output.n_classes)]):
        raise ModelError(
            f"the {type(estimator).__name__} has the classes {', '.join(found[:5]) or 'none'} ({len(found)}), the output "
            f"{', '.join(output.classes[:5])} ({output.n_classes}); they must be the same, in one order, or numbers from 0"
        )


def _check_stored(estimator: Any, stored: Any, output: OutputSpec, matrix: NDArray[np.float64]) -> None:
    """Raise unless the estimator scores the same bits after it was written and read."""
    few = matrix[:, :_STORED_ROWS]
    before, after = (_library(one, output).score(few) for one in (estimator, stored))
    again = _library(estimator, output).score(few)
    changed = np.flatnonzero(differing_rows(before, after) & ~differing_rows(before, again))
    if len(changed):
        row = int(changed[0])
        raise VerificationError(
            f"the estimator scores other bits after it was written and read: {len(changed)} of {few.shape[1]} rows, the first is "
            f"row {row} of the certification rows, by {int(row_ulps(before, after)[row])} ULP",
            row=row,
        )


def _certified(
    directory: Path,
    estimator: Any,
    output: OutputSpec,
    matrix: NDArray[np.float64],
    golden: list[int],
    strategies: Sequence[Strategy],
) -> tuple[Evaluator, dict[str, Any]]:
    """Choose flat trees if they give the estimator's bits on every certification row, else the estimator under a strategy."""
    facts: dict[str, Any] = {
        "rows": int(matrix.shape[1]),
        "estimator": type(estimator).__name__,
        "libraries": libraries_of(estimator),
    }
    library = _library(estimator, output)
    trees, reason = _certified_trees(estimator, output, matrix)
    if trees is not None:
        certificate = certify(trees, matrix, first=golden)
        if certificate.is_invariant:
            trees.save(directory / "trees.npz")
            measured = _measured(certificate, measure_cost(trees, library, matrix))
            return trees, {**facts, "evaluator": "trees", **measured}
        reason = "flat trees did not give the same bits under each condition"
    chosen = choose_strategy(
        estimator, output.task, matrix, first=golden, strategies=strategies, n_classes=output.n_classes
    )
    measured = _measured(chosen.certificate, measure_cost(chosen.evaluator, library, matrix))
    return chosen.evaluator, {
        **facts,
        "evaluator": "library",
        "reason": reason,
        "strategy": chosen.evaluator.strategy.to_json(),
        "rejected": chosen.rejected,
        **measured,
    }


def _library(estimator: Any, output: OutputSpec, strategy: Strategy | None = None) -> LibraryEvaluator:
    return LibraryEvaluator(estimator, output.task, strategy or Strategy(), output.n_classes)


def _certified_trees(
    estimator: Any, output: OutputSpec, matrix: NDArray[np.float64]
) -> tuple[FlatTrees | None, str]:
    """Return the estimator as flat trees, or None and why not."""
    try:
        trees = export_trees(estimator)
    except ModelError as refused:
        return None, str(refused)
    wanted = len(output.score_names)
    if trees.n_outputs != wanted:
        return None, f"flat trees give {trees.n_outputs} score(s) per row; this output has {wanted}"
    if not certify_trees(trees, estimator, matrix).is_identical:
        return None, "flat trees did not give the library's bits on the certification rows"
    return trees, ""


def _measured(certificate: Certificate, cost: Mapping[str, Any]) -> dict[str, Any]:
    return {**certificate.to_json(), "cost": dict(cost)}


def _load_evaluator(files: Mapping[str, bytes], model: Mapping[str, Any], output: OutputSpec) -> Evaluator:
    if model["certification"]["evaluator"] == "trees":
        return FlatTrees.load(files["trees.npz"])
    recorded = model["certification"].get("strategy")
    strategy = Strategy() if recorded is None else Strategy.from_json(recorded)
    return _library(load_estimator(files["estimator.skops"]), output, strategy)


def _checked_files(directory: Path, expected_digest: str | None) -> dict[str, bytes]:
    """Return the content of every file, each read once: what was checked is what is loaded."""
    if not (directory / "manifest.json").is_file():
        raise ModelError(f"{directory.name} is no model directory: it has no manifest.json")
    files = {
        str(p.relative_to(directory)): p.read_bytes()
        for p in directory.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    digest = hashlib.sha256(files["manifest.json"]).hexdigest()
    if expected_digest is not None and digest != expected_digest:
        raise ModelIntegrityError(
            f"the model's manifest has digest {digest[:12]}, the registry holds {expected_digest[:12]}"
        )
    try:
        recorded = dict(json.loads(files["manifest.json"]))
    except ValueError as exc:
        raise ModelIntegrityError(f"the model's manifest.json is damaged: {exc}") from exc
    present = files.keys() - {"manifest.json", _MEASURED}
    changed = sorted(
        name
        for name in recorded.keys() & present
        if hashlib.sha256(files[name]).hexdigest() != recorded[name]
    )
    missing, added = sorted(recorded.keys() - present), sorted(present - recorded.keys())
    if changed or missing or added:
        parts = [("changed", changed), ("missing", missing), ("added", added)]
        said = "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in parts if names)
        raise ModelIntegrityError(
            f"the model's files in {directory} are not those that were logged: {said}",
            files=changed + missing + added,
        )
    return files


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
