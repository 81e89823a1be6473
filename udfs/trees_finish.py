"""From the sums of leaf values to scores, as each library does it, where the compiled loop (see trees_loop) does not.

Libraries take the exponential from one of three places, and each rounds in its own way: from the C library in double
precision (math.exp), from the C library in single precision (expf, which Python reaches through ctypes alone), or from
numpy, whose loops depend on the processor. This module knows of margins and links, not of trees; it needs numpy alone.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from feature_pipelines.errors import ModelError
from udfs.trees_loop import Floats

__all__ = ["LINKS", "LINKS_IN_LOOP", "c_function", "finish", "to_single"]

LINKS: Final = ("identity", "logit", "log", "exp", "softmax", "softmax_by_row", "softmax_c", "square")
"""How margins become scores.

- "identity": they are the scores;
- "logit": 1 / (1 + exp(-margin)) of each output, C library;
- "log": numpy's exp; "exp": the C library's;
- "softmax": over the outputs; numpy's exp; summed up class by class;
- "softmax_by_row": the same, summed up within each row, which numpy does in pairs from eight classes on;
- "softmax_c": the C library's exp, summed up class by class;
- "square": the margin's square, with its sign.
"""
LINKS_IN_LOOP: Final = {"logit": 1, "exp": 2, "softmax_c": 3}
_LARGEST_EXPONENT: Final = float(np.float32(88.7))  # up to which XGBoost's logistic looks at the margin


def finish(margins: Floats, link: str, divisor: float, slope: float, *, is_single: bool) -> Floats:
    """Return scores of margins, both of shape (n_outputs, n_rows).

    Args:
        margins: what the trees add up to. It is overwritten.
        link: one of LINKS.
        divisor: by which a margin is divided, first.
        slope: by which it is multiplied, then.
        is_single: whether all is float32 arithmetic; margins and scores are float64 of these numbers.

    Raises:
        ModelError: float32 arithmetic is asked for with a link that no library has it for, or that needs a C library that
            cannot be found in this process.
    """
    if divisor != 1.0 or slope != 1.0:
        margins = margins / divisor * slope
    if link == "identity":
        return margins
    if is_single and link not in LINKS_IN_LOOP:
        raise ModelError(f"flat trees know no float32 arithmetic of the link {link!r}")
    if link in LINKS_IN_LOOP:
        return _c_links(is_single)[link](margins)
    if link == "log":
        return np.exp(margins)
    if link == "square":
        sign = (margins > 0).astype(np.float64) - (margins < 0)
        return sign * margins * margins
    return _softmax_by_row(margins) if link == "softmax_by_row" else _softmax(margins)


def to_single(numbers: Floats) -> Floats:
    """Return float64 numbers rounded to float32, as float64 again."""
    rounded: Floats = numbers.astype(np.float32).astype(np.float64)
    return rounded


@functools.cache
def c_function(name: str) -> Callable[[float], float]:
    """Return a function of the C library from float to float.

    Raises:
        ModelError: this process finds none.
    """
    for library in (None, "libm.so.6"):
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError, TypeError):
            continue
        function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
        found: Callable[[float], float] = function
        return found
    raise ModelError(f"flat trees in float32 need {name} of the C library, which this process does not find")


def _exp(x: float) -> float:
    """The C library's exp, which gives inf where Python's raises."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _map(function: Callable[[float], float], numbers: Floats) -> Floats:
    return np.array([function(x) for x in numbers.ravel().tolist()], np.float64).reshape(numbers.shape)


def _c_links(is_single: bool) -> dict[str, Callable[[Floats], Floats]]:
    if is_single:
        exp = c_function("expf")
        return {
            "logit": lambda margins: _logistic_single(exp, margins),
            "exp": lambda margins: _map(exp, margins),
            "softmax_c": lambda margins: _softmax_single(exp, margins),
        }
    return {
        "logit": _logistic,
        "exp": lambda margins: _map(_exp, margins),
        "softmax_c": lambda margins: _shares(_map(_exp, margins - margins.max(axis=0))),
    }


def _logistic(margins: Floats) -> Floats:
    """scipy's expit too, bit for bit."""
    scores: Floats = 1.0 / (1.0 + _map(_exp, -margins))
    return scores


def _logistic_single(exp: Callable[[float], float], margins: Floats) -> Floats:
    power = _map(exp, np.minimum(-margins, _LARGEST_EXPONENT))
    return to_single(1.0 / to_single(power + 1.0))


def _softmax_single(exp: Callable[[float], float], margins: Floats) -> Floats:
    power = _map(exp, margins - margins.max(axis=0))  # ctypes rounds the difference to float32
    return to_single(power / to_single(_total(power)))


def _softmax(margins: Floats) -> Floats:
    return _shares(np.exp(margins - margins.max(axis=0)))


def _softmax_by_row(margins: Floats) -> Floats:
    rows = np.ascontiguousarray(margins.T)
    rows = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.ascontiguousarray((rows / rows.sum(axis=1, keepdims=True)).T)


def _shares(powers: Floats) -> Floats:
    return powers / _total(powers)


def _total(powers: Floats) -> Floats:
    total = np.zeros(powers.shape[1])
    for power in powers:
        total += power
    return total
