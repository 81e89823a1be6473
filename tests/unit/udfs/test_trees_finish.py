"""Margins become scores with the bits of each library's arithmetic, compiled or not."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.utils.extmath import softmax

import udfs.trees_finish
from feature_pipelines.errors import ModelError
from udfs.trees import FlatTrees
from udfs.trees_finish import LINKS, LINKS_IN_LOOP, c_function, finish, to_single
from udfs.trees_loop import load_loop

EXTREMES = [0.0, -0.0, 1e3, -1e3, 709.78, 709.79, -745.13, -745.14, 88.6, 88.7, 88.73, -88.8, 103.9, -103.98]
EXTREMES += [36.7, 1e300, -1e300, 5e-324, 1e-45, -1e-45]


def bits(scores):
    return np.asarray(scores, np.float64).view(np.uint64).tolist()


def margins_of(n_outputs, *, is_single=False, n_rows=2000):
    rng = np.random.default_rng(7)
    margins = rng.normal(size=(n_outputs, n_rows)) * 10.0 ** rng.integers(-3, 3, (n_outputs, n_rows))
    margins[0, : len(EXTREMES)] = EXTREMES
    margins[-1, -len(EXTREMES) :] = EXTREMES
    with np.errstate(all="ignore"):
        return np.clip(to_single(margins), -3e38, 3e38) if is_single else margins


def score(margins, link, **options):
    with np.errstate(all="ignore"):
        return finish(margins.copy(), link, options.pop("divisor", 1.0), options.pop("slope", 1.0), **options)


def test_logistic_is_scipys_expit():
    margins = margins_of(1)
    with np.errstate(all="ignore"):
        assert bits(score(margins, "logit", is_single=False)) == bits(expit(margins))


def test_softmax_is_scikit_learns_for_rows_of_each_layout():
    for n_outputs in (3, 7, 8, 17):
        margins = margins_of(n_outputs)
        with np.errstate(all="ignore"):
            by_class = softmax(np.asfortranarray(margins.T))
            by_row = softmax(np.ascontiguousarray(margins.T))
        assert bits(score(margins, "softmax", is_single=False)) == bits(by_class.T)
        assert bits(score(margins, "softmax_by_row", is_single=False)) == bits(by_row.T)


def test_exponential_is_the_c_librarys_and_overflows_to_infinity():
    scores = score(margins_of(1), "exp", is_single=False)
    assert scores[0, EXTREMES.index(709.78)] == math.exp(709.78)
    assert scores[0, EXTREMES.index(709.79)] == math.inf


def test_square_keeps_the_sign():
    scores = score(np.array([[3.0, -3.0, 0.0, -0.0]]), "square", is_single=False)
    assert scores.tolist() == [[9.0, -9.0, 0.0, 0.0]]


def test_margins_are_divided_and_then_multiplied():
    scores = finish(np.array([[0.3, 1.0]]), "identity", 3.0, 1.1, is_single=False)
    assert bits(scores) == bits([[0.3 / 3.0 * 1.1, 1.0 / 3.0 * 1.1]])


def test_float32_links_are_computed_in_float32():
    one = np.float32(1.0)
    margins = margins_of(3, is_single=True)
    exp = c_function("expf")
    logistic = score(margins, "logit", is_single=True)
    shares = score(margins, "softmax_c", is_single=True)
    for r in range(0, 2000, 7):
        column = margins[:, r].astype(np.float32)
        with np.errstate(all="ignore"):
            expected = [one / (np.float32(exp(float(min(-x, np.float32(88.7))))) + one) for x in column]
            powers = [np.float32(exp(float(x - column.max()))) for x in column]
            total = np.float32(sum(map(float, powers)))
            assert bits(logistic[:, r]) == bits(expected)
            assert bits(shares[:, r]) == bits([power / total for power in powers])


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("link", [link for link in LINKS if link in (*LINKS_IN_LOOP, "identity")])
@pytest.mark.parametrize("n_outputs", [2, 9])
def test_compiled_links_are_those_of_python(precision, link, n_outputs):
    """Trees of one leaf each, of which a feature chooses: the margins are what the matrix says."""
    margins = margins_of(n_outputs, is_single=precision == "single", n_rows=64)
    loop = load_loop()
    for r in range(margins.shape[1]):
        n = n_outputs
        trees = FlatTrees(
            feature=np.zeros(n, np.int32),
            threshold=np.full(n, np.inf),
            child=np.repeat(np.arange(n), 2).astype(np.int32),
            missing_left=np.zeros(n, np.uint8),
            value=margins[:, r],
            root=np.arange(n, dtype=np.int32),
            depth=np.zeros(n, np.int32),
            baseline=np.zeros(n),
            link=link,
            n_features=1,
            output=np.arange(n, dtype=np.int32),
            precision=precision,
        )
        matrix = np.zeros((1, 9))
        with np.errstate(all="ignore"):
            assert bits(trees._score_compiled(matrix, loop)) == bits(trees._score_interpreted(matrix))


def test_float32_of_another_link_is_refused():
    with pytest.raises(ModelError, match="no float32 arithmetic of the link 'log'"):
        finish(np.zeros((1, 1)), "log", 1.0, 1.0, is_single=True)


def test_process_without_the_c_library_is_refused(monkeypatch):
    def nothing(_name):
        raise OSError("no such library")

    monkeypatch.setattr(udfs.trees_finish.ctypes, "CDLL", nothing)
    with pytest.raises(ModelError, match="need cosf of the C library, which this process does not find"):
        c_function("cosf")
    assert ctypes is udfs.trees_finish.ctypes
