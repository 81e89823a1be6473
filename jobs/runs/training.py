"""The training set and the fit: the same features, by the same as-of look-up, through the same evaluator as every other path.

A request is learned from only if its outcome was known before the split, so that nothing of the held-out time leaks into training.
This module knows nothing of MLflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, did_you_mean
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.reasons import RowError, RowsRefused
from feature_pipelines.schema import Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.conf import Conf
from jobs.runs.estimator import fit_estimator, make_estimator, predict
from jobs.runs.held_out import held_out_by_share, held_out_by_time
from jobs.runs.outcome_labels import UNSEEN, has_outcome, labels, output_of
from jobs.runs.views import index_view, pin_view
from jobs.tables.snapshot import Snapshot, pin_snapshot, plan_units, read_unit
from udfs.kernel import views_to_look_up
from udfs.scorer import OutputSpec

__all__ = ["FittedModel", "TrainingSet", "build_training_set", "fit_model", "without_views"]


@dataclass(frozen=True)
class TrainingSet:
    """Requests with their stored features and outcomes, as columns.

    Args:
        columns: every source field, n rows each.
        label: float64, shape (n,): 1.0 / 0.0 for a classification, the position among `classes`, or the value.
        held_out: bool, shape (n,): requests of the split time or later, or of the share that is held out.
        left_out: requests not used, by reason.
        tables: what was read, by role, in words.
        classes: of a multiclass model, sorted; else empty.
    """

    columns: Mapping[str, Column]
    label: NDArray[np.float64]
    held_out: NDArray[np.bool_]
    left_out: Mapping[str, int]
    tables: Mapping[str, str]
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def part(self, index: NDArray[Any]) -> dict[str, Column]:
        """Return the columns of some rows."""
        return {name: take(column, index) for name, column in self.columns.items()}

    def without(self, refused: Sequence[RowError]) -> TrainingSet:
        """Return the rest, with the refused rows counted by their reason.

        Raises:
            ContractError: nothing is left to learn from, or to test.
        """
        index = np.delete(np.arange(len(self)), [error.row for error in refused])
        left_out = Counter(self.left_out)
        left_out.update(str(error.code) for error in refused)
        rest = replace(
            self,
            columns=self.part(index),
            label=self.label[index],
            held_out=self.held_out[index],
            left_out=left_out,
        )
        _require_both_sides(rest)
        return rest


@dataclass(frozen=True)
class FittedModel:
    """A fitted estimator with its constants, and the held-out rows' truth and prediction.

    Args:
        estimator: takes the features in the set's order.
        constants: fitted constants as JSON values.
        truth, predicted: of the held-out rows, float64; `predicted` is the probability of the positive class, shape (n,), that of
            each class, shape (n, n_classes), or the value.
        matrix: the held-out rows' features, shape (n_features, n).
        output: what the scores mean.
    """

    estimator: Any
    constants: dict[str, Any]
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    matrix: NDArray[np.float64]
    output: OutputSpec


def build_training_set(conf: Conf, feature_set: FeatureSet, spark: Any = None) -> TrainingSet:
    """Read requests, views and outcomes, and join them point in time.

    Args:
        conf: `train` says which tables, label and split.
        feature_set: what to read of them.
        spark: needed for catalog tables.

    Raises:
        ContractError: a column is missing, or no row is left to learn from.
    """
    settings = conf.train
    requests = pin_snapshot(conf.table_location(settings.requests), spark=spark)
    outcomes = pin_snapshot(conf.table_location(settings.outcomes), spark=spark)
    tables = {"requests": _named(requests), "outcomes": _named(outcomes)}
    columns, rows, left_out = _requests(feature_set, requests, settings.join_on)
    for view in views_to_look_up(feature_set, requests.schema.names, set(conf.views)):
        pinned = pin_view(
            view,
            conf.table_location(conf.views[view.name]),
            spark,
            version=conf.view_versions.get(view.name),
        )
        tables[f"view {view.name}"] = _named(pinned)
        as_of: Any = columns[feature_set.as_of or ""]
        found, _ = index_view(view, pinned).lookup([columns[name] for name in view.keys.values()], as_of)
        columns.update(found)
    has_share = settings.held_out_share is not None
    outcome, known_ts = _outcomes(
        rows, outcomes, settings.join_on, settings.label_column, needs_time=not has_share
    )
    usable = has_outcome(outcome)
    if settings.held_out_share is not None:
        held_out, in_time = held_out_by_share(rows, settings.held_out_share), usable
    else:
        asked = columns[feature_set.as_of] if feature_set.as_of else None
        held_out, in_time = held_out_by_time(settings, asked, known_ts)
    left_out["no outcome"] = int((~usable).sum())
    left_out["outcome not yet known at the split"] = int((usable & ~in_time).sum())
    index = np.flatnonzero(usable & in_time)
    if settings.max_rows is not None and len(index) > settings.max_rows:
        index = np.sort(np.random.default_rng(settings.seed).choice(index, settings.max_rows, replace=False))
    label, classes = labels(settings, outcome.take(pa.array(index)), ~held_out[index])
    if (unseen := np.isnan(label)).any():
        left_out[UNSEEN] = int(unseen.sum())
        label, index = label[~unseen], index[~unseen]
    result = TrainingSet(
        {name: take(column, index) for name, column in columns.items()},
        label,
        held_out[index],
        left_out,
        tables,
        classes,
    )
    _require_both_sides(result)
    return result


def _require_both_sides(data: TrainingSet) -> None:
    if not (~data.held_out).any() or not data.held_out.any():
        raise ContractError(
            f"nothing to {'test' if (~data.held_out).any() else 'learn from'}: {len(data)} rows have an outcome, "
            f"{int(data.held_out.sum())} of them held out by train.split_at or train.held_out_share"
        )


def _requests(
    feature_set: FeatureSet, snapshot: Snapshot, join_on: list[str]
) -> tuple[dict[str, Column], pa.Table, Counter[str]]:
    """Return the columns of the good request rows, their join keys, and the bad rows by reason."""
    names = [name for name in snapshot.schema.names if name in feature_set.sources or name in join_on]
    parts: list[dict[str, Column]] = []
    keys: list[pa.RecordBatch] = []
    left_out: Counter[str] = Counter()
    declared = Schema(
        tuple(f for f in feature_set.sources if f.name in feature_set.request or f.name in names)
    )
    for unit in plan_units(snapshot, unit_rows=1_000_000):
        for batch in read_unit(unit, names, batch_rows=1_000_000, schema=snapshot.schema):
            columns, errors = columns_from_arrow(declared, batch)
            broken = {error.row: error for error in reversed(errors)}
            left_out.update(str(error.code) for error in broken.values())
            index = np.delete(np.arange(batch.num_rows), np.array(sorted(broken), dtype=np.int64))
            parts.append({name: take(column, index) for name, column in columns.items()})
            keys.append(_plain_keys(batch.take(pa.array(index)), join_on))
    if not parts:
        raise ContractError(f"table {snapshot.source} is empty: there is nothing to learn from")
    joined = {name: concat([part[name] for part in parts]) for name in parts[0]}
    return joined, pa.Table.from_batches(keys), left_out


def _plain_keys(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    missing = [name for name in names if name not in batch.schema.names]
    if missing:
        hint = did_you_mean(missing[0], batch.schema.names)
        raise ContractError(f"train.join_on: the table has no column {missing[0]!r}.{hint}")
    columns = [batch.column(name) for name in names]
    plain = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in columns]
    return pa.RecordBatch.from_arrays(plain, names=names)


def _outcomes(
    keys: pa.Table, snapshot: Snapshot, join_on: list[str], label_column: str, *, needs_time: bool
) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """Return each request's outcome (null if it has none) and when it became known: the later of its two times, in microseconds.

    Where no time is needed, none is read, and each is known never."""
    required = (*join_on, label_column, *((EVENT_TS,) if needs_time else ()))
    missing = [name for name in required if name not in snapshot.schema.names]
    if missing:
        hint = did_you_mean(missing[0], snapshot.schema.names)
        raise ContractError(f"outcomes table {snapshot.source} has no column {missing[0]!r}.{hint}")
    times = [name for name in (EVENT_TS, CREATED_TS) if needs_time and name in snapshot.schema.names]
    names = [*join_on, label_column, *times]
    batches = [
        pa.RecordBatch.from_arrays(
            [*_plain_keys(batch, join_on).columns, *(batch.column(name) for name in (label_column, *times))],
            names=names,
        )
        for unit in plan_units(snapshot, unit_rows=1_000_000)
        for batch in read_unit(unit, names, batch_rows=1_000_000, schema=snapshot.schema)
    ]
    right = (
        pa.Table.from_batches(batches)
        if batches
        else pa.schema([snapshot.schema.field(n) for n in names]).empty_table()
    )
    twice = right.num_rows - right.group_by(join_on).aggregate([]).num_rows
    if twice:
        raise ContractError(
            f"outcomes table {snapshot.source} has {twice} row(s) whose {', '.join(join_on)} occurs twice"
        )
    right = _keyed_alike(keys, right, join_on, snapshot)
    left = keys.append_column("position", pa.array(np.arange(keys.num_rows)))
    joined = left.join(right, keys=join_on, join_type="left outer").sort_by("position")
    never = np.iinfo(np.int64).max
    known_ts = np.full(keys.num_rows, np.iinfo(np.int64).min if times else never)
    for name in times:
        known = joined.column(name).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).fill_null(never)
        known_ts = np.maximum(known_ts, known.to_numpy())
    return joined.column(label_column), known_ts


def _keyed_alike(keys: pa.Table, outcomes: pa.Table, join_on: list[str], snapshot: Snapshot) -> pa.Table:
    """Return the outcomes with the requests' key types; a key that cannot be one of theirs is refused by name."""
    for name in join_on:
        wanted, got = keys.schema.field(name).type, outcomes.schema.field(name).type
        if wanted == got:
            continue
        try:
            column = outcomes.column(name).cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise ContractError(
                f"train.join_on: {name!r} is {wanted} in the requests and {got} in {snapshot.source}, which do not convert"
            ) from exc
        outcomes = outcomes.set_column(outcomes.schema.get_field_index(name), name, column)
    return outcomes


def fit_model(conf: Conf, feature_set: FeatureSet, data: TrainingSet) -> FittedModel:
    """Fit constants and estimator on the rows that are not held out, and predict those that are.

    Raises:
        RowsRefused: a feature refuses rows, by their positions in the data: fit without them.
    """
    train, test = np.flatnonzero(~data.held_out), np.flatnonzero(data.held_out)
    train_columns, test_columns = data.part(train), data.part(test)
    constants = fit_constants(feature_set, train_columns)
    arguments = constants_from_json(constants)
    output = output_of(conf.train, data.classes)
    estimator = make_estimator(conf.train)
    label = data.label[train].astype(np.int64 if output.classes else np.float64)
    if conf.train.task == "classification" and len(np.unique(label)) != 2:
        raise ContractError("a classification needs both outcomes among the training rows; there is only one")
    names = feature_set.feature_names
    learned = _evaluated(feature_set, train_columns, arguments, train)
    matrix = _evaluated(feature_set, test_columns, arguments, test)
    fit_estimator(conf.train, estimator, learned.T, label, names)
    predicted = predict(conf.train, estimator, np.ascontiguousarray(matrix.T), names)
    return FittedModel(estimator, constants, data.label[test], predicted, matrix, output)


def _evaluated(
    feature_set: FeatureSet,
    columns: Mapping[str, Column],
    arguments: Mapping[str, Any],
    index: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the features of the rows at `index`; of those that are refused, say which they are there."""
    try:
        return evaluate(feature_set, columns, arguments, len(index))
    except RowsRefused as exc:
        raise RowsRefused(error._replace(row=int(index[error.row])) for error in exc.errors) from exc


def without_views(feature_set: FeatureSet) -> FeatureSet | None:
    """Return the set with only those features that read no view, neither themselves nor through a feature or a constant.

    None if that is no feature, or all of them: then there is nothing to compare.
    """
    reads_view = {name for view in feature_set.views for name in view.fields.names}
    reads_view |= {one.name for one in feature_set.fitted if reads_view & set(one.columns)}
    for step in feature_set.steps:  # each comes after those that it reads
        if reads_view & {*step.inputs, *step.constants}:
            reads_view.add(step.name)
    kept = tuple(f for f in feature_set.features if f.__name__ not in reads_view)
    if not kept or len(kept) == len(feature_set.features):
        return None
    return replace(
        feature_set,
        features=kept,
        intermediates=tuple(f for f in feature_set.intermediates if f.__name__ not in reads_view),
        fitted=tuple(one for one in feature_set.fitted if one.name not in reads_view),
        views=(),
    )


def _named(snapshot: Snapshot) -> str:
    version = f" version {snapshot.version}" if snapshot.version is not None else ""
    return f"{snapshot.source}{version} (digest {snapshot.digest()[:16]})"
