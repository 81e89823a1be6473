"""What a row would have been with some things of the batch exchanged for the online side's: the replay that explanations rest on.

A set of groups is swapped at once: inputs, the served version's constants and estimator, its feature functions, the threshold, the
platform. Every call takes a set of its own for each row, so that many rows and many sets cost one evaluation.

A set's features are held against the logged ones first. Where they are equal by bits, the score of the logged features is the score
of the set, so that each estimator scores the rows once, however many sets are tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take
from feature_pipelines.parity import differing_bits, differing_rows
from jobs.proof.groups import ABSENT, Cause, Group, code_of, input_groups
from jobs.proof.pairs import Pairs
from jobs.proof.residuals import Residual, residual
from jobs.proof.worlds import (
    Mask,
    Matrix,
    PlatformReplay,
    World,
    as_declared,
    features_of,
    read_fields,
    scores_of,
)

__all__ = ["Swaps"]

_NO_GROUP: Final = -1


class Swaps:
    """The groups in which rows differ, and whether swapping some of them closes a row's gap.

    Args:
        pairs: differing rows of one served version, all of them scored online.
        reference: what the batch scored with.
        served: the version that answered; None = it cannot be loaded. Not looked at where the reference answered.
        replay: scores as another platform does; None = no platform can be replayed.
    """

    def __init__(
        self, pairs: Pairs, reference: World, served: World | None, replay: PlatformReplay | None = None
    ) -> None:
        self.pairs, self.reference = pairs, reference
        self._scores = pairs.online.scores
        self._same_scores = ~differing_rows(self._scores, pairs.offline.scores)
        self.is_other_version = bool(pairs.digest) and pairs.digest[0] != reference.digest
        answered = served if self.is_other_version else reference
        feature_set = reference.scorer.feature_set
        read = set(read_fields(feature_set))
        if answered is not None:
            read |= set(read_fields(answered.scorer.feature_set)) & set(feature_set.sources.names)
        self.inputs = input_groups(pairs, feature_set, read)
        self.groups: list[Group] = list(self.inputs.groups)
        self._cause = list(self.inputs.cause)
        self._columns = {
            name: concat([pairs.offline.columns[name], pairs.online.columns[name]]) for name in sorted(read)
        }
        self.left = self._residual(answered, replay)
        self._add_version()
        is_plain = self.left is None or self._is_whole
        self._target = pairs.online.matrix if is_plain or self.left is None else self.left.target
        scores = scores_of(reference.scorer, self._target)
        self._reference_ok = ~differing_rows(scores, self._scores)
        self._add_threshold()
        if self.left is not None:
            self._add(Group("platform", "platform"), Cause.PLATFORM, self.left.platform)
        self.cause = np.stack(self._cause) if self._cause else np.empty((0, len(pairs)), dtype=np.int8)

    @property
    def served(self) -> World | None:
        """The version that answered, if it is another than the reference and can be run on the logged inputs."""
        return self.left.world if self.left is not None and self.is_other_version else None

    def _residual(self, answered: World | None, replay: PlatformReplay | None) -> Residual | None:
        if answered is None:
            return None
        feature_set = self.reference.scorer.feature_set
        columns = as_declared(self.pairs.online.columns, feature_set.sources, answered.scorer.feature_set)
        if columns is None:
            return None
        names = feature_set.feature_names
        unlogged = _unlogged(self.pairs, answered.scorer.feature_set.feature_names)
        output = self.reference.scorer.output
        return residual(self.pairs, names, answered, columns, unlogged, replay, output)

    # The groups that are no inputs

    def _add(self, group: Group, cause: Cause, rows: Mask) -> None:
        if rows.any():
            self.groups.append(group)
            self._cause.append(np.where(rows, code_of(cause), ABSENT).astype(np.int8))

    def _add_version(self) -> None:
        """A served version of other feature names is swapped whole: its features mean nothing to another estimator."""
        pairs, served = self.pairs, self.served
        everywhere = np.ones(len(pairs), dtype=np.bool_)
        code = self.left.code if self.left is not None else ~everywhere
        self._is_whole = False
        if served is not None:
            names = self.reference.scorer.feature_set.feature_names
            self._is_whole = served.scorer.feature_set.feature_names != names
            same = self._same_scores & ~differing_bits(pairs.online.matrix, pairs.offline.matrix).any(axis=0)
            self._add(Group("model", f"version {served.version}"), Cause.MODEL_VERSION, ~same)
            if served.fingerprint != self.reference.fingerprint and not self._is_whole:
                code = code | ~same
        self._add(Group("code", "feature code"), Cause.FEATURE_CODE, code)

    def _add_threshold(self) -> None:
        """The label of a score is the threshold's doing alone; one that no threshold gives to all rows explains nothing.

        Of several classes the highest has it, which nothing configures.
        """
        label, offline = self.pairs.online.label, self.pairs.offline.label
        self._labels: dict[bool, NDArray[Any] | None] = {
            False: self._label(self.reference),
            True: self._label(self.served),
        }
        if label is None or offline is None or self.reference.scorer.output.classes:
            return
        own = self._labels[self.served is not None]
        odd = label != own if own is not None else np.zeros(len(label), dtype=np.bool_)
        odd |= (label != offline) & self._same_scores
        self._add(Group("configuration", "threshold"), Cause.CONFIGURATION, odd & self._has_threshold(label))

    def _label(self, world: World | None) -> NDArray[Any] | None:
        """Return the labels that a version gives to the logged scores; None where it has none of the reference's kind."""
        online = self.pairs.online
        if world is None or online.label is None:
            return None
        output = world.scorer.output
        if output.classes != self.reference.scorer.output.classes:
            return None
        return output.columns(online.score if online.classes is None else online.classes.values).get("label")

    def _has_threshold(self, label: Mask) -> Mask:
        """Whether one threshold gives the labels of all rows that were served with a row's configuration."""
        found = np.zeros(len(label), dtype=np.bool_)
        configuration = np.array(self.pairs.configuration, dtype=np.object_)
        for digest in set(self.pairs.configuration):
            rows = np.flatnonzero(configuration == digest)
            score, positive = self.pairs.online.score[rows], label[rows]
            above, below = score[positive], score[~positive]
            found[rows] = not above.size or not below.size or bool(above.min() > below.max())
        return found

    # A set for each row

    def closes(self, rows: NDArray[np.int64], chosen: Mask) -> Mask:
        """Return whether the rows' sets give the logged features, score and label, by bits.

        Args:
            rows: places in the pairs, (m,).
            chosen: which groups are swapped, (n_groups, m).

        Returns:
            (m,).
        """
        model, code = self._is_chosen("model", chosen), self._is_chosen("code", chosen)
        if self._is_whole:
            code = model
        closed = np.zeros(len(rows), dtype=np.bool_)
        for of_model in (False, True):
            for of_code in (False, True):
                part = np.flatnonzero((model == of_model) & (code == of_code))
                if part.size:
                    closed[part] = self._closes(rows[part], chosen[:, part], of_model, of_code)
        return closed

    def _closes(self, rows: NDArray[np.int64], chosen: Mask, of_model: bool, of_code: bool) -> Mask:
        left, score, label = self.left, self.pairs.online.score[rows], self.pairs.online.label
        on_platform = self._is_chosen("platform", chosen)
        features, raised = self._features(rows, chosen, of_model, of_code)
        whole = self._is_whole and of_code
        target = left.target if whole and left is not None else self._target
        differs = differing_bits(features, _of_rows(target, rows))
        if left is not None and (whole or not self._is_whole) and left.differs.any():
            known = ~differing_bits(features, _of_rows(left.features, rows))
            known &= (left.code_features[:, rows] & of_code) | (left.platform_features[:, rows] & on_platform)
            differs &= ~known
        world = left.world if left is not None and (of_model or not self.is_other_version) else self.reference
        is_own = left is not None and world is left.world
        score_ok = left.score_ok[rows] if left is not None and is_own else self._reference_ok[rows]
        hidden = self._hidden(world, differs, rows)
        if hidden.any():  # what was not logged may be anything, so that only the score can tell
            scores = scores_of(world.scorer, features[:, hidden], self.reference.scorer.output)
            score_ok = score_ok.copy()
            score_ok[hidden] = ~differing_rows(scores, self._scores[rows][hidden])
        if left is not None and is_own:
            score_ok = score_ok | (on_platform & left.platform[rows])
        closed: Mask = ~differs.any(axis=0) & ~raised & score_ok & ~np.isnan(score)
        labels = self._labels[of_model and self.is_other_version]
        if label is not None and labels is not None:
            closed &= (labels[rows] == label[rows]) | self._is_chosen("configuration", chosen)
        return closed

    def _hidden(self, world: World, differs: Mask, rows: NDArray[np.int64]) -> Mask:
        """Return the rows with other features than assumed where the log has none; take these out of what differs, in place."""
        unlogged = _unlogged(self.pairs, world.scorer.feature_set.feature_names)
        if unlogged is None or unlogged.shape[0] != differs.shape[0]:
            return np.zeros(len(rows), dtype=np.bool_)
        hidden: Mask = np.asarray((differs & unlogged[:, rows]).any(axis=0))
        differs &= ~unlogged[:, rows]
        return hidden

    def changed_by_code(self) -> Mask:
        """Return where the served version's functions give other features than the reference's, for the logged inputs."""
        left, served = self.left, self.served
        if (
            left is None
            or served is None
            or self._is_whole
            or served.fingerprint == self.reference.fingerprint
        ):
            return np.zeros(self.pairs.online.matrix.shape, dtype=np.bool_)
        constants = {**self.reference.scorer.constants, **served.scorer.constants}
        features, _ = features_of(
            self.reference.scorer.feature_set, self.pairs.online.columns, constants, len(self.pairs)
        )
        return differing_bits(features, left.features)

    def _is_chosen(self, kind: str, chosen: Mask) -> Mask:
        found = np.zeros(chosen.shape[1], dtype=np.bool_)
        for i, group in enumerate(self.groups):
            if group.kind == kind:
                found |= chosen[i]
        return found

    def _features(
        self, rows: NDArray[np.int64], chosen: Mask, of_model: bool, of_code: bool
    ) -> tuple[Matrix, Mask]:
        """Compute features: functions of the version whose code, constants of the one whose model is chosen."""
        served = self.served or self.reference
        functions = (served if of_code else self.reference).scorer.feature_set
        one, other = (served, self.reference) if of_model else (self.reference, served)
        constants = {**other.scorer.constants, **one.scorer.constants}
        mixed = self._mixed(rows, chosen)
        columns = as_declared(mixed, self.reference.scorer.feature_set.sources, functions)
        return features_of(functions, columns or {}, constants, len(rows))

    def _mixed(self, rows: NDArray[np.int64], chosen: Mask) -> dict[str, Column]:
        """Return the inputs of rows: the online side's where their group is chosen."""
        nowhere = np.zeros(len(rows), dtype=np.bool_)
        by_field: dict[str, Mask] = {}
        for i, group in enumerate(self.inputs.groups):
            mask = chosen[i]
            if group.kind == "view":
                carrier = self.inputs.carried[group.name][rows]
                by_key = chosen[np.maximum(carrier, 0), np.arange(len(rows))]
                mask = np.where(carrier == _NO_GROUP, mask, by_key)
                by_field |= dict.fromkeys(group.fields, mask)
            elif group.name in self.inputs.sent:
                of_row = self.inputs.sent[group.name][rows]
                by_field[group.name] = np.where(of_row, mask, by_field[group.name])
            else:
                by_field[group.name] = mask
        n = len(self.pairs)
        return {
            name: take(column, rows + n * by_field.get(name, nowhere))
            for name, column in self._columns.items()
        }


def _of_rows(matrix: Matrix, rows: NDArray[np.int64]) -> Matrix:
    """Return columns of a matrix, C-contiguous; the matrix itself where all are wanted, for rows ascend."""
    return matrix if len(rows) == matrix.shape[1] else np.take(matrix, rows, axis=1)


def _unlogged(pairs: Pairs, names: Sequence[str]) -> Mask | None:
    """Return where the log has no value of a feature, (n_features, n); None where it has all."""
    if not any(name in pairs.unlogged for name in names):
        return None
    nowhere = np.zeros(len(pairs), dtype=np.bool_)
    return np.stack([pairs.unlogged.get(name, nowhere) for name in names])
