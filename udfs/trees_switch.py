"""When a model's trees go over to the compiled loop (see trees), and what the loop must give before its first answer.

Importing numba takes about a second, so a process that scores little never does. A model is loaded, and its golden rows replayed,
long before a process has scored that much: the loop repeats the replay when it comes. This module imports numba through
`load_loop` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.parity import differing_rows, row_ulps
from udfs.trees_loop import Floats, Loop, load_loop

__all__ = ["Switch"]

_REPAID_AT = 50_000_000
"""Steps of the interpreted evaluation, which takes 11 to 18 ns each: 0.6 s and more, what importing numba takes at best (1 to 2 s
on a busy machine). Whoever goes over after having lost that much never loses more than twice what the better choice would have."""
_LARGE_ROWS = 1024  # batches below do not count: a server that answers single rows must not stop for a second after many of them


class Switch:
    """Decides it for one model.

    Args:
        steps_per_row: splits that a row passes at most, in all trees.
    """

    def __init__(self, steps_per_row: int) -> None:
        self._steps_per_row = max(steps_per_row, 1)
        self._steps = 0
        self._promised: Sequence[tuple[Floats, Floats]] = ()

    def prove_on(self, promised: Sequence[tuple[Floats, Floats]]) -> None:
        """Have the loop reproduce some scores before it answers.

        Args:
            promised: matrices, and the scores that they must have.
        """
        self._promised = promised

    def loop(self, n_rows: int, score: Callable[[Floats, Loop], Floats]) -> Loop | None:
        """Return the loop if a batch is to be scored by it: this process has it, or has scored enough to repay it.

        Args:
            n_rows: of the batch.
            score: scores a matrix by the loop.

        Raises:
            ModelIntegrityError: the loop gives other scores than promised; each time, so this process scores no more.
        """
        if not load_loop.cache_info().currsize:
            self._steps += n_rows * self._steps_per_row if n_rows >= _LARGE_ROWS else 0
            if self._steps < _REPAID_AT:
                return None
        loop = load_loop()
        if loop is not None and self._promised:
            for matrix, scores in self._promised:
                _demand_equal(score(matrix, loop), scores)
            self._promised = ()
        return loop


def _demand_equal(got: Floats, promised: Floats) -> None:
    wrong = np.flatnonzero(differing_rows(got, promised))
    if len(wrong):
        worst = int(row_ulps(got, promised).max())
        raise ModelIntegrityError(
            f"the compiled loop does not reproduce the model's golden rows here: {len(wrong)} of {len(promised)} scores differ "
            f"(worst by {worst} ULP), which are right without it. Score without it: set NUMBA_DISABLE_JIT=1; or install numba anew",
            worst_ulps=worst,
        )
