"""Flat trees give the bits of the estimator they came from, whichever way they are evaluated."""

from __future__ import annotations

import functools
import io
import os
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

import udfs.trees
import udfs.trees_loop
from feature_pipelines.errors import ContractError, ModelError, ModelIntegrityError
from udfs.trees import FlatTrees, warm_up
from udfs.trees_export import TreeCertificate, certify_trees, export_trees

ROOT = Path(__file__).parents[3]
N_FEATURES = 6
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 2.2e-308, 1e300, -1e300, 1.0, -1.0]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Training on tables this small is slower with more, above all while other tests run."""
    with threadpool_limits(1):
        yield


def bits(scores):
    return np.asarray(scores, np.float64).view(np.uint64).tolist()


def training_rows(n_rows=600, seed=0):
    """Feature 0 clean, 1 with NaN, 2 with huge numbers, 3 of few values, 4 one number or NaN, 5 tiny."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, N_FEATURES))
    rows[rng.random(n_rows) < 0.2, 1] = np.nan
    rows[rng.random(n_rows) < 0.1, 2] = 1e300
    rows[rng.random(n_rows) < 0.1, 2] = -1e300
    rows[:, 3] = np.round(rows[:, 3])
    rows[:, 4] = np.where(rng.random(n_rows) < 0.5, np.nan, 1.0)
    rows[:, 5] *= 1e-310
    target = (
        rows[:, 0]
        + np.isnan(rows[:, 1])
        + np.isnan(rows[:, 4])
        + np.sign(rows[:, 2]) * rows[:, 3]
        + rng.normal(size=n_rows)
    )
    return rows, target


def awkward_matrix(trees, n_rows=600, seed=1):
    """A feature-major matrix of thresholds, their neighbours, special values and noise, rows of NaN alone first."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(trees.n_features, n_rows))
    for f in range(trees.n_features):
        at = trees.threshold[(trees.feature == f) & (trees.child[0::2] != trees.child[1::2])]
        pool = np.concatenate([at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf), SPECIAL])
        chosen = rng.random(n_rows) < 0.6
        matrix[f, chosen] = rng.choice(pool, chosen.sum())
    matrix[:, :3] = np.nan
    matrix[4, : n_rows // 2] = np.nan
    return matrix


CLASSIFIERS = {
    "of default shape": {"max_iter": 20},
    "of one tree": {"max_iter": 1},
    "of stumps": {"max_leaf_nodes": 2, "max_iter": 30},
    "of three leaves": {"max_leaf_nodes": 3, "max_iter": 9},
    "of 64 leaves": {"max_leaf_nodes": 64, "min_samples_leaf": 1, "max_iter": 5},
    "of 65 leaves": {"max_leaf_nodes": 65, "min_samples_leaf": 1, "max_iter": 5},
    "without limits": {"max_leaf_nodes": None, "min_samples_leaf": 1, "max_iter": 8, "learning_rate": 1.0},
    "stopped early": {"early_stopping": True, "max_iter": 40},
    "with extreme margins": {"max_iter": 60, "learning_rate": 5.0},
}
REGRESSORS = {
    "squared_error": {},
    "absolute_error": {},
    "quantile": {"quantile": 0.9},
    "poisson": {},
    "gamma": {},
}


@functools.cache
def fitted_classifier(name="of default shape"):
    rows, target = training_rows()
    labels = np.where(target > 0.3, "late", "in time")
    return HistGradientBoostingClassifier(random_state=0, **CLASSIFIERS[name]).fit(rows, labels)


@functools.cache
def fitted_regressor(loss="squared_error"):
    rows, target = training_rows()
    estimator = HistGradientBoostingRegressor(loss=loss, max_iter=20, random_state=0, **REGRESSORS[loss])
    return estimator.fit(rows, np.exp(target))


@functools.cache
def exported():
    return export_trees(fitted_classifier())


def assert_certified(estimator):
    trees = export_trees(estimator)
    certificate = certify_trees(trees, estimator, awkward_matrix(trees))
    assert certificate.is_identical, certificate
    assert len(certificate.mismatches) == 12  # two ways of evaluation, five batch sizes and made rows
    return trees


# The same bits as scikit-learn


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_gives_the_bits_of_predict_proba(name):
    trees = assert_certified(fitted_classifier(name))
    assert trees.link == "logit"


@pytest.mark.parametrize("loss", REGRESSORS)
def test_regressor_gives_the_bits_of_predict(loss):
    trees = assert_certified(fitted_regressor(loss))
    assert trees.link == ("log" if loss in ("poisson", "gamma") else "identity")


def test_shapes_that_the_two_loops_divide_between_them_are_all_covered():
    n_leaves = {}
    for name in CLASSIFIERS:
        trees = export_trees(fitted_classifier(name))
        is_leaf = (trees.child[0::2] == trees.child[1::2]).astype(int)
        n_leaves[name] = np.add.reduceat(is_leaf, trees.root)
    assert set(n_leaves["of stumps"]) == {2}
    assert n_leaves["of 64 leaves"].max() == 64
    assert n_leaves["of 65 leaves"].max() == 65
    assert n_leaves["without limits"].min() > 100


def test_constant_target_gives_trees_of_one_leaf():
    rows, _ = training_rows()
    trees = assert_certified(HistGradientBoostingRegressor(max_iter=3).fit(rows, np.full(len(rows), 7.25)))
    assert trees.depth.tolist() == [0] * trees.root.size
    assert trees.score(np.full((N_FEATURES, 2), np.nan)).tolist() == [7.25, 7.25]


def test_negative_zero_baseline_becomes_zero_as_in_scikit_learn():
    rows, _ = training_rows()
    estimator = HistGradientBoostingRegressor(max_iter=1).fit(rows, np.full(len(rows), -0.0))
    estimator._baseline_prediction = np.array([[-0.0]])
    trees = export_trees(estimator)
    assert bits(trees.baseline) == bits([0.0])


def test_weights_and_constraints_change_nothing_in_the_layout():
    rows, target = training_rows()
    estimator = HistGradientBoostingClassifier(
        max_iter=10, monotonic_cst=[1, 0, 0, -1, 0, 0], interaction_cst="pairwise", class_weight="balanced"
    )
    weights = np.random.default_rng(3).random(len(rows))
    assert_certified(estimator.fit(rows, target > 0, sample_weight=weights))


def test_estimator_fitted_with_names_is_certified_without_a_warning():
    pandas = pytest.importorskip("pandas")
    rows, target = training_rows()
    frame = pandas.DataFrame(rows, columns=list("abcdef"))
    assert_certified(HistGradientBoostingClassifier(max_iter=5).fit(frame, target > 0))


@pytest.mark.parametrize("n_rows", [0, 1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 255, 256, 257, 263, 264, 511, 513])
def test_batch_size_does_not_change_a_bit(n_rows):
    trees = exported()
    matrix = awkward_matrix(trees, 600)[:, 3 : 3 + n_rows]
    expected = bits(fitted_classifier().predict_proba(matrix.T)[:, 1]) if n_rows else []
    assert bits(trees._score_interpreted(matrix)) == expected
    assert warm_up()
    assert bits(trees.score(matrix)) == expected
    assert trees.score(matrix).dtype == np.float64


# Trees written by hand: a leaf is a float, a split is (feature, threshold, missing_left, left, right)


def flatten(nested, baseline=0.0, link="identity", n_features=N_FEATURES):
    nodes, root, depth = [], [], []

    def number(tree):  # splits first, depth first; then leaves from left to right
        splits, leaves = [], []

        def visit(node, level):
            if isinstance(node, float):
                leaves.append(node)
                return level
            splits.append(node)
            return max(visit(node[3], level + 1), visit(node[4], level + 1))

        return splits, leaves, visit(tree, 0)

    for tree in nested:
        splits, leaves, deepest = number(tree)
        root.append(len(nodes))
        depth.append(deepest)
        place = {id(split): len(nodes) + i for i, split in enumerate(splits)}
        next_leaf = iter(range(len(nodes) + len(splits), len(nodes) + len(splits) + len(leaves)))

        def connect(node, place=place, next_leaf=next_leaf):
            if isinstance(node, float):
                return next(next_leaf), {}
            left, below_left = connect(node[3])
            right, below_right = connect(node[4])
            return place[id(node)], {place[id(node)]: (right, left)} | below_left | below_right

        _, children = connect(tree)
        for split in splits:
            nodes.append((split[0], split[1], split[2], 0.0, *children[len(nodes)]))
        for value in leaves:
            nodes.append((0, np.inf, 0, value, len(nodes), len(nodes)))
    feature, threshold, missing_left, value, right, left = zip(*nodes, strict=True)
    return FlatTrees(
        feature=np.array(feature, np.int32),
        threshold=np.array(threshold, np.float64),
        child=np.column_stack([right, left]).ravel().astype(np.int32),
        missing_left=np.array(missing_left, np.uint8),
        value=np.array(value, np.float64),
        root=np.array(root, np.int32),
        depth=np.array(depth, np.int32),
        baseline=baseline,
        link=link,
        n_features=n_features,
    )


def walk_nested(nested, row, baseline=0.0):
    total = baseline
    for tree in nested:
        node = tree
        while not isinstance(node, float):
            feature, threshold, missing_left, left, right = node
            x = row[feature]
            goes_left = bool(missing_left) if x != x else x <= threshold
            node = left if goes_left else right
        total += node
    return total


def balanced(values, first=0):
    """A tree on feature 0 in which the integer first + i ends at values[i]."""
    if len(values) == 1:
        return float(values[0])
    half = len(values) // 2
    left, right = balanced(values[:half], first), balanced(values[half:], first + half)
    return (0, first + half - 0.5, 0, left, right)


def test_logistic_is_expit_to_the_bit():
    rng = np.random.default_rng(5)
    extremes = [0.0, 1e3, -1e3, 709.78, -709.78, -709.79, 745.13, -745.14, 36.7, 1e308, -1e308, 5e-324]
    margins = np.concatenate(
        [rng.normal(size=20_000) * 8, rng.uniform(-760, 760, 20_000), np.linspace(-1e3, 1e3, 2_001), extremes]
    )
    trees = flatten([balanced(margins)], link="logit", n_features=1)
    matrix = np.arange(margins.size, dtype=np.float64)[None, :]
    expected = bits(expit(margins))
    assert bits(trees._score_interpreted(matrix)) == expected
    assert warm_up()
    assert bits(trees.score(matrix)) == expected


def spied_loop(**changes):
    """The compiled loop, and the list of the arguments it is called with."""
    loop, calls = udfs.trees_loop.load_loop(), []

    def evaluate(*arguments):
        calls.append(arguments)
        loop.evaluate(*arguments)

    return replace(loop, evaluate=evaluate, **changes), calls


def test_logistic_is_python_where_the_compiled_exponential_is_not_the_one_of_the_c_library():
    matrix = awkward_matrix(exported())
    exact, exact_calls = spied_loop(has_exact_exp=True)
    inexact, inexact_calls = spied_loop(has_exact_exp=False)
    assert bits(exported()._score_compiled(matrix, inexact)) == bits(
        exported()._score_compiled(matrix, exact)
    )
    assert [recipe[2] for *_, recipe, _ in exact_calls + inexact_calls] == [1, 0]


def random_forest(rng, n_trees, most_leaves):
    """Nested trees of any shape; thresholds are few, so that rows hit them; infinite ones appear too."""

    def grow(n_leaves):
        if n_leaves == 1:
            return float(rng.normal())
        n_left = int(rng.integers(1, n_leaves))
        threshold = float(rng.choice([-1.0, -0.0, 0.0, 0.5, 1.0, 5e-324, np.inf, -np.inf]))
        feature, missing_left = int(rng.integers(N_FEATURES)), int(rng.integers(2))
        return (feature, threshold, missing_left, grow(n_left), grow(n_leaves - n_left))

    return [grow(int(rng.integers(1, most_leaves + 1))) for _ in range(n_trees)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_trees=st.integers(1, 5),
    most_leaves=st.sampled_from([1, 2, 3, 5, 31, 64, 90]),
    rows=st.lists(
        st.lists(
            st.one_of(st.floats(), st.sampled_from([*SPECIAL, 0.5])), min_size=N_FEATURES, max_size=N_FEATURES
        ),
        max_size=20,
    ),
)
def test_every_way_of_evaluation_ends_in_the_same_leaves(seed, n_trees, most_leaves, rows):
    nested = random_forest(np.random.default_rng(seed), n_trees, most_leaves)
    trees = flatten(nested, baseline=0.1)
    matrix = np.array(rows, np.float64).reshape(-1, N_FEATURES).T
    expected = bits([walk_nested(nested, row, 0.1) for row in rows])
    loop = udfs.trees_loop.load_loop()
    assert bits(trees._score_interpreted(matrix)) == expected
    assert bits(trees._score_compiled(matrix, loop)) == expected
    for r in range(len(rows)):
        assert bits(trees._score_interpreted(matrix[:, r : r + 1])) == expected[r : r + 1]
        assert bits(trees._score_compiled(matrix[:, r : r + 1], loop)) == expected[r : r + 1]


def with_random_sets(trees, rng, most_bounds):
    """The same trees with about half of the splits by bounds."""
    is_split = trees.child[0::2] != trees.child[1::2]
    counts = np.where(
        is_split & (rng.random(is_split.size) < 0.5), rng.integers(1, most_bounds + 1, is_split.size), 0
    )
    pool = np.array([-np.inf, -1.0, -0.0, 0.0, 5e-324, 0.5, 1.0, np.inf, *rng.normal(size=most_bounds)])
    bounds = [np.sort(rng.choice(pool, count)) for count in counts]
    return replace(
        trees,
        threshold=np.where(counts > 0, 0.0, trees.threshold),
        bounds=np.concatenate(bounds),
        bounds_stop=np.cumsum(counts).astype(np.int32),
    )


def walk_flat(trees, row):
    """The plain reading of what FlatTrees says of itself."""
    margins = trees.baseline.tolist()
    for t, k in enumerate(trees.root.tolist()):
        while trees.child[2 * k] != k:
            x = row[trees.feature[k]]
            bounds = trees.bounds[trees.bounds_stop[k - 1] if k else 0 : trees.bounds_stop[k]]
            if x != x:
                goes_left = trees.missing_left[k] == 1
            elif bounds.size:
                goes_left = sum(bound <= x for bound in bounds) % 2 == 1
            else:
                goes_left = x <= trees.threshold[k]
            k = int(trees.child[2 * k + goes_left])
        for v in range(trees.n_values):
            total = margins[trees.output[t] + v] + trees.value[k * trees.n_values + v]
            margins[trees.output[t] + v] = np.float64(np.float32(total)) if trees.is_single else total
    return margins


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    most_leaves=st.sampled_from([1, 2, 5, 31, 64, 90]),
    most_bounds=st.sampled_from([1, 3, 40]),
    n_outputs=st.sampled_from([1, 2, 3]),
    is_vector=st.booleans(),
    is_single=st.booleans(),
    n_rows=st.sampled_from([0, 1, 4, 5, 7, 8, 20, 260]),
)
def test_sets_outputs_and_float32_are_evaluated_alike_in_every_way(
    seed, most_leaves, most_bounds, n_outputs, is_vector, is_single, n_rows
):
    rng = np.random.default_rng(seed)
    trees = with_random_sets(flatten(random_forest(rng, 5, most_leaves)), rng, most_bounds)
    n_values = n_outputs if is_vector else 1
    value = np.repeat(trees.value, n_values) * rng.normal(size=trees.value.size * n_values)
    single = value.astype(np.float32).astype(np.float64)
    trees = replace(
        trees,
        value=single if is_single else value,
        baseline=np.arange(n_outputs) * 0.25,
        output=np.zeros(5, np.int32) if is_vector else rng.integers(0, n_outputs, 5).astype(np.int32),
        precision="single" if is_single else "double",
    )
    matrix = rng.normal(size=(N_FEATURES, n_rows))
    chosen = rng.random(matrix.shape) < 0.6
    matrix[chosen] = rng.choice([*SPECIAL, 0.5, *trees.bounds], chosen.sum())
    expected = np.array([walk_flat(trees, row) for row in matrix.T]).reshape(n_rows, n_outputs)
    expected = bits(expected[:, 0] if n_outputs == 1 else expected)
    assert bits(trees._score_interpreted(matrix)) == expected
    assert bits(trees._score_compiled(matrix, udfs.trees_loop.load_loop())) == expected


def test_values_are_added_in_the_order_of_the_trees():
    trees = flatten([1e16, 1.0, -1e16, 1.0], baseline=1.0)
    expected = bits([(((1.0 + 1e16) + 1.0) - 1e16) + 1.0] * 20)
    matrix = np.zeros((N_FEATURES, 20))
    assert bits(trees._score_interpreted(matrix)) == expected
    assert bits(trees._score_interpreted(matrix[:, :1])) == expected[:1]
    assert bits(trees._score_compiled(matrix, udfs.trees_loop.load_loop())) == expected


# The matrix


def layouts(matrix):
    padded = np.zeros((2 * matrix.shape[0], 3 * matrix.shape[1]))
    padded[::2, ::3] = matrix
    backwards = np.ascontiguousarray(matrix[::-1, ::-1])
    shifted = np.frombuffer(b"x" + matrix.tobytes(), np.uint8)[1:].view(np.float64).reshape(matrix.shape)
    frozen = matrix.copy()
    frozen.setflags(write=False)
    return {
        "Fortran order": np.asfortranarray(matrix),
        "a transposed view of rows": np.ascontiguousarray(matrix.T).T,
        "strided": padded[::2, ::3],
        "negative strides": backwards[::-1, ::-1],
        "unaligned": shifted,
        "read-only": frozen,
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((1, 1))))
def test_layout_of_the_matrix_does_not_matter(layout):
    trees = exported()
    matrix = awkward_matrix(trees)
    expected = bits(trees._score_interpreted(matrix))
    view = layouts(matrix)[layout]
    assert bits(view) == bits(matrix)
    assert view.flags.aligned == (layout != "unaligned")
    before = view.tobytes()
    assert bits(trees._score_interpreted(view)) == expected
    assert bits(trees._score_interpreted(view[:, :1])) == expected[:1]
    assert warm_up()
    assert bits(trees.score(view)) == expected
    assert view.tobytes() == before


def test_compiled_loop_never_gets_an_unaligned_matrix():
    matrix = awkward_matrix(exported())
    loop, calls = spied_loop()
    exported()._score_compiled(layouts(matrix)["unaligned"], loop)
    exported()._score_compiled(matrix, loop)
    assert [given.flags.aligned for given, *_ in calls] == [True, True]
    assert calls[1][0] is matrix  # and no copy where none is needed


def test_memory_mapped_matrix_is_scored(tmp_path):
    trees = exported()
    matrix = awkward_matrix(trees)
    np.save(tmp_path / "matrix.npy", matrix)
    mapped = np.load(tmp_path / "matrix.npy", mmap_mode="r")
    assert warm_up()
    assert bits(trees.score(mapped)) == bits(trees.score(matrix))


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((N_FEATURES, 3), np.float32),
        np.zeros((N_FEATURES, 3), ">f8"),
        np.zeros((N_FEATURES, 3), np.int64),
        np.zeros((N_FEATURES + 1, 3)),
        np.zeros((3, N_FEATURES)),
        np.zeros(N_FEATURES),
        [[0.0]] * N_FEATURES,
    ],
)
def test_other_matrices_are_refused(matrix):
    expected = r"feature-major float64 matrix of shape \(6, n_rows\), got "
    with pytest.raises(ContractError, match=expected):
        exported().score(matrix)


def test_threads_may_score_at_the_same_time():
    trees = export_trees(fitted_classifier("without limits"))
    matrix = awkward_matrix(trees)
    expected = bits(trees._score_interpreted(matrix))
    assert warm_up()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: bits(trees.score(matrix)), range(40)))
    assert all(result == expected for result in results)


# What cannot be exported


def test_estimator_that_is_not_fitted_is_refused():
    with pytest.raises(ModelError, match="HistGradientBoostingRegressor is not fitted"):
        export_trees(HistGradientBoostingRegressor())


class MyClassifier(HistGradientBoostingClassifier):
    pass


@pytest.mark.parametrize("estimator", [DecisionTreeRegressor(), MyClassifier(), object()])
def test_other_estimators_are_refused_by_name(estimator):
    name = type(estimator).__qualname__
    with pytest.raises(
        ModelError,
        match=f"{name} has no export to flat trees; exportable are scikit-learn's Hist.*; LightGBM's ",
    ):
        export_trees(estimator)


def test_other_losses_are_refused():
    estimator = pickle.loads(pickle.dumps(fitted_regressor()))
    estimator._loss.link = expit
    with pytest.raises(
        ModelError,
        match="a loss with ufunc; flat trees know IdentityLink, LogitLink, HalfLogitLink, LogLink, Multi",
    ):
        export_trees(estimator)


def make_endless(nodes):
    nodes["left"][2] = 0


def spoil_threshold(nodes):  # training on infinities can: halfway between -inf and inf is NaN
    nodes["num_threshold"][0] = np.nan


@pytest.mark.parametrize("change", [make_endless, spoil_threshold])
def test_nodes_of_another_meaning_are_refused(change):
    estimator = pickle.loads(pickle.dumps(fitted_regressor()))
    change(estimator._predictors[0][0].nodes)
    with pytest.raises(
        ModelError, match="this scikit-learn stores its trees in an unknown way: flat trees: "
    ):
        export_trees(estimator)


def test_unknown_attributes_are_refused():
    estimator = pickle.loads(pickle.dumps(fitted_regressor()))
    del estimator._baseline_prediction
    with pytest.raises(ModelError, match=r"in an unknown way: .*_baseline_prediction"):
        export_trees(estimator)


# Certificates


def test_certificate_counts_rows_with_other_bits():
    trees = exported()
    matrix = awkward_matrix(trees)
    value = trees.value.copy()
    value[-1] += 1e-6
    changed = replace(trees, value=value)
    n_changed = np.count_nonzero(changed._score_interpreted(matrix) != trees._score_interpreted(matrix))
    assert n_changed > 0
    certificate = certify_trees(changed, fitted_classifier(), matrix)
    assert not certificate.is_identical
    assert {n for way, n in certificate.mismatches.items() if "batches" in way} == {n_changed}
    assert all(certificate.mismatches.values())


def test_certificate_of_few_rows_names_the_batches_that_were_made():
    trees = exported()
    certificate = certify_trees(trees, fitted_classifier(), awkward_matrix(trees)[:, :7])
    ways = [
        f"{way}, {of}"
        for way in ("interpreted", "compiled")
        for of in ("batches of 1 rows", "batches of 7 rows", "1024 rows at decisions")
    ]
    assert certificate == TreeCertificate(n_rows=7, mismatches=dict.fromkeys(ways, 0))


def test_rows_at_decisions_are_compared_where_the_given_rows_say_nothing():
    """One float64 further, at every threshold: as if x < threshold were meant."""
    trees = exported()
    is_split = np.isfinite(trees.threshold)
    changed = replace(
        trees, threshold=np.where(is_split, np.nextafter(trees.threshold, -np.inf), trees.threshold)
    )
    certificate = certify_trees(changed, fitted_classifier(), np.full((N_FEATURES, 9), 0.1234))
    differing = {way for way, n in certificate.mismatches.items() if n}
    assert differing == {f"{way}, 1024 rows at decisions" for way in ("interpreted", "compiled")}
    assert not certificate.is_identical


def test_nothing_is_certified_by_no_rows():
    assert not certify_trees(exported(), fitted_classifier(), np.empty((N_FEATURES, 0))).is_identical


def test_certify_refuses_another_matrix():
    with pytest.raises(ContractError, match="feature-major"):
        certify_trees(exported(), fitted_classifier(), np.zeros((9, N_FEATURES)))


# Files


def test_saved_trees_load_to_the_same_arrays_and_bytes(tmp_path):
    trees = exported()
    trees.save(tmp_path / "a.npz")
    loaded = FlatTrees.load(tmp_path / "a.npz")
    for field in fields(FlatTrees):
        one, other = getattr(trees, field.name), getattr(loaded, field.name)
        assert type(one) is type(other), field.name
        assert np.array_equal(one, other), field.name
        assert np.asarray(one).dtype == np.asarray(other).dtype, field.name
    loaded.save(tmp_path / "b")  # no suffix is added
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b").read_bytes()


def test_arrays_are_copies_that_cannot_be_written():
    feature = np.zeros(1, np.int32)
    leaf = replace(flatten([1.0]), feature=feature)
    feature[0] = 99
    assert leaf.feature.tolist() == [0]
    with pytest.raises(ValueError, match="read-only"):
        leaf.feature[0] = 99


STUMPS = flatten([(1, 0.5, 1, -1.0, 3.0), (0, 0.5, 0, (1, 2.0, 0, 4.0, 5.0), 6.0)], n_features=2)


def with_entry(name, index, entry):
    array = getattr(STUMPS, name).copy()
    array[index] = entry
    return {name: array}


def with_bounds(bounds):
    """The first split of STUMPS by bounds."""
    arrays = {"bounds": np.array(bounds), "bounds_stop": np.full(8, len(bounds), np.int32)}
    return {**with_entry("threshold", 0, 0.0), **arrays}


BROKEN = {
    "feature beyond the matrix": (with_entry("feature", 3, 2), r"feature must be in 0\.\.1"),
    "feature below zero": (with_entry("feature", 0, -1), r"feature must be in 0\.\.1"),
    "feature of a leaf": (with_entry("feature", 7, 2), r"feature must be in 0\.\.1"),
    "fewer features": (
        {"n_features": 1, "limit": np.ones(1), "takes_nan": np.ones(1, np.uint8)},
        r"feature must be in 0\.\.0",
    ),
    "missing_left of 2": (with_entry("missing_left", 0, 2), "missing_left 0 or 1"),
    "threshold NaN": (with_entry("threshold", 0, np.nan), "threshold must not be NaN"),
    "threshold of a leaf": (with_entry("threshold", 1, 9.0), "the threshold of a leaf must be inf"),
    "value inf": (with_entry("value", 1, np.inf), "value must be finite"),
    "value NaN in a split": (with_entry("value", 0, np.nan), "value must be finite"),
    "baseline inf": ({"baseline": float("inf")}, "baseline must be a finite float"),
    "baseline of text": ({"baseline": "0"}, "baseline must be a finite float"),
    "link unknown": ({"link": "probit"}, "link must be one of identity, logit, log, .*, got 'probit'"),
    "no features": ({"n_features": 0}, "n_features must be an int > 0, got 0"),
    "features of a fraction": ({"n_features": 2.5}, r"n_features must be an int > 0, got 2\.5"),
    "child beyond the end": (with_entry("child", 6, 8), "a child must be a later node of its tree"),
    "child below zero": (with_entry("child", 1, -1), "a child must be a later node of its tree"),
    "child of another tree": (with_entry("child", 0, 4), "a child must be a later node of its tree"),
    "child before its parent": (with_entry("child", 9, 3), "a child must be a later node of its tree"),
    "half a leaf": (with_entry("child", 2, 2), "a child must be a later node of its tree"),
    "split that is its own child": (with_entry("child", 0, 0), "a child must be a later node of its tree"),
    "two parents": (with_entry("child", 0, 1), "every node but a root must be the child of one node"),
    "orphan": (with_entry("child", slice(6, 8), 3), "every node but a root must be the child of one node"),
    "children swapped": (with_entry("child", slice(0, 2), [1, 2]), "stored from left to right"),
    "depth too small": (with_entry("depth", 1, 1), "depth must be the number of splits"),
    "depth too large": (with_entry("depth", 0, 2_000_000_000), "depth must be the number of splits"),
    "depth negative": (with_entry("depth", 0, -1), "depth must be the number of splits"),
    "root not zero": (with_entry("root", 0, 1), "root must ascend from 0"),
    "root beyond the end": (with_entry("root", 1, 8), "root must ascend from 0"),
    "root twice": (with_entry("root", 1, 0), "root must ascend from 0"),
    "root inside a tree": (with_entry("root", 1, 2), "a child must be a later node of its tree"),
    "no trees": ({"root": np.empty(0, np.int32), "depth": np.empty(0, np.int32)}, "one entry per tree"),
    "one depth missing": ({"depth": STUMPS.depth[:1]}, "one entry per tree"),
    "one child missing": ({"child": STUMPS.child[:-1]}, "child must have 16 entries, got 15"),
    "one value missing": (
        {"value": STUMPS.value[:-1]},
        "value must have 1 or 1 entries for each of 8 nodes, got 7",
    ),
    "wide features": ({"feature": STUMPS.feature.astype(np.int64)}, "feature must be a vector of int32"),
    "other byte order": ({"value": STUMPS.value.astype(">f8")}, "value must be a vector of float64"),
    "bool": ({"missing_left": STUMPS.missing_left.astype(bool)}, "missing_left must be a vector of uint8"),
    "matrix of values": ({"value": STUMPS.value.reshape(2, 4)}, "value must be a vector of float64"),
    "no array": ({"root": None}, "root must be a vector of int32"),
    "no baseline": ({"baseline": np.empty(0)}, "baseline must be a finite float"),
    "softmax of one output": ({"link": "softmax"}, "a softmax needs several outputs"),
    "divisor zero": ({"divisor": 0.0}, r"divisor must be a finite float > 0, got 0\.0"),
    "slope NaN": ({"slope": float("nan")}, "slope must be a finite float > 0, got nan"),
    "slope of an int": ({"slope": 1}, "slope must be a finite float > 0, got 1"),
    "precision unknown": ({"precision": "half"}, "precision must be double or single, got 'half'"),
    "single with a divisor": ({"precision": "single", "divisor": 2.0}, "single precision knows no divisor"),
    "single with numpy's exp": ({"precision": "single", "link": "log"}, "not the link 'log'"),
    "output beyond the last": (with_entry("output", 1, 1), r"output must be in 0\.\.0"),
    "output below zero": (with_entry("output", 0, -1), r"output must be in 0\.\.0"),
    "one output missing": ({"output": STUMPS.output[:1]}, "one entry per tree"),
    "bounds that nobody has": ({"bounds": np.zeros(2)}, "bounds_stop must ascend to the 2 entries of bounds"),
    "bounds_stop descends": (
        {"bounds": np.zeros(1), "bounds_stop": np.array([1, 0, 1, 1, 1, 1, 1, 1], np.int32)},
        "bounds_stop must ascend",
    ),
    "bounds of a leaf": (
        {"bounds": np.zeros(1), "bounds_stop": np.array([0, 1, 1, 1, 1, 1, 1, 1], np.int32)},
        "a leaf has no bounds",
    ),
    "bounds and a threshold": (
        {"bounds": np.zeros(1), "bounds_stop": np.ones(8, np.int32)},
        "a split with bounds has the threshold 0",
    ),
    "bounds descend": (with_bounds([1.0, 0.0]), "the bounds of a split must ascend"),
    "bounds NaN": (with_bounds([np.nan]), "none is NaN"),
    "limit NaN": ({"limit": np.array([np.nan, 1.0])}, "limit must be > 0"),
    "takes_nan of 2": ({"takes_nan": np.array([2, 1], np.uint8)}, "takes_nan 0 or 1"),
    "limits missing": ({"limit": np.ones(1)}, "limit must have one entry per feature, 2, got 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_arrays_that_are_not_trees_are_refused(case):
    change, message = BROKEN[case]
    with pytest.raises(ModelIntegrityError, match=message):
        replace(STUMPS, **change)


def test_leaf_of_two_parents_is_refused():
    arrays = {
        name: getattr(STUMPS, name)[[0, 3, 1, 2]]
        for name in ("feature", "threshold", "missing_left", "value")
    }
    child = np.array([3, 1, 3, 2, 2, 2, 3, 3], np.int32)
    of_tree = {"root": STUMPS.root[:1], "depth": STUMPS.depth[1:], "output": STUMPS.output[:1]}
    with pytest.raises(ModelIntegrityError, match="every node but a root must be the child of one node"):
        replace(STUMPS, **arrays, **of_tree, child=child, bounds_stop=STUMPS.bounds_stop[:4])


def test_splits_after_leaves_are_refused():
    swapped = [0, 2, 1, 3, 4]  # of ((a b) c): root, leaf c, split, leaves a b
    trees = flatten([(0, 0.0, 0, (1, 0.0, 0, 1.0, 2.0), 3.0)], n_features=2)
    assert trees.child.reshape(-1, 2).tolist() == [[4, 1], [3, 2], [2, 2], [3, 3], [4, 4]]
    child = np.array([[1, 2], [1, 1], [4, 3], [3, 3], [4, 4]], np.int32).ravel()
    arrays = {
        name: getattr(trees, name)[swapped] for name in ("feature", "threshold", "missing_left", "value")
    }
    with pytest.raises(ModelIntegrityError, match="the splits of a tree must come before its leaves"):
        replace(trees, child=child, **arrays)


def write_npz(path, **changes):
    """A file of version 2."""
    content = {field.name: getattr(STUMPS, field.name) for field in fields(FlatTrees)}
    content = {"format_version": 2, **content, **changes}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, "format version 3, this code reads 1 and 2"),
        ({"format_version": None}, "format_version"),
        ({"threshold": None}, "threshold"),
        ({"link": None}, "link"),
        ({"extra": 1}, "extra"),
        ({"slope": np.ones(2)}, "size 1"),
        ({"limit": None}, "limit"),
        ({"baseline": 1j}, "baseline must be a finite float"),
        ({"n_features": "2"}, "n_features must be an int"),
        ({"value": np.array([print] * 8, object)}, "allow_pickle"),
        ({"child": STUMPS.child[::-1]}, "a child must be a later node"),
    ],
)
def test_tampered_files_are_refused_with_their_path(tmp_path, changes, message):
    write_npz(tmp_path / "trees.npz", **changes)
    with pytest.raises(ModelIntegrityError, match=message) as refused:
        FlatTrees.load(tmp_path / "trees.npz")
    assert str(tmp_path / "trees.npz") in str(refused.value)
    assert refused.value.evidence["path"] == str(tmp_path / "trees.npz")


def test_files_of_both_versions_load_as_the_same_trees(tmp_path):
    STUMPS.save(tmp_path / "1.npz")
    write_npz(tmp_path / "2.npz")
    for version in (1, 2):
        with np.load(tmp_path / f"{version}.npz") as file:
            assert file["format_version"] == version
        loaded = FlatTrees.load(tmp_path / f"{version}.npz")
        for field in fields(FlatTrees):
            assert np.array_equal(getattr(loaded, field.name), getattr(STUMPS, field.name)), field.name


@pytest.mark.parametrize(
    ("change", "version"),
    [
        ({}, 1),
        ({"link": "logit"}, 1),
        ({"link": "exp"}, 2),
        ({"divisor": 2.0}, 2),
        ({"precision": "single"}, 2),
        ({"takes_nan": np.zeros(2, np.uint8)}, 2),
        ({"limit": np.array([np.inf, 1.0])}, 2),
        ({"baseline": np.zeros(2)}, 2),
        (with_bounds([1.0]), 2),
    ],
)
def test_files_are_of_the_oldest_version_that_says_it_all(tmp_path, change, version):
    trees = replace(STUMPS, **change)
    assert trees.format_version == version
    trees.save(tmp_path / "trees.npz")
    loaded = FlatTrees.load(tmp_path / "trees.npz")
    for field in fields(FlatTrees):
        assert np.array_equal(getattr(loaded, field.name), getattr(trees, field.name)), field.name


def test_fields_of_another_version_are_refused(tmp_path):
    write_npz(tmp_path / "trees.npz", format_version=1, baseline=0.0)
    with pytest.raises(ModelIntegrityError, match="fields bounds, bounds_stop, divisor"):
        FlatTrees.load(tmp_path / "trees.npz")


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"not a zip at all",
        pickle.dumps({"feature": 1}),
        npy_bytes(np.zeros(3)),
        b"PK\x05\x06" + bytes(18),
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "trees.npz").write_bytes(content)
    with pytest.raises(ModelIntegrityError, match="is not a file of flat trees"):
        FlatTrees.load(tmp_path / "trees.npz")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelIntegrityError, match="is not a file of flat trees: FileNotFoundError"):
        FlatTrees.load(tmp_path / "none.npz")


def test_damaged_files_never_load_as_other_trees(tmp_path):
    STUMPS.save(tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    rng = np.random.default_rng(11)
    n_refused = 0
    for attempt in range(1500):
        bad = bytearray(good)
        if attempt % 10 == 0:
            bad = bad[: rng.integers(len(bad))]
        else:
            for at in rng.integers(0, len(bad), rng.integers(1, 4)):
                bad[at] ^= 1 << rng.integers(8)
        (tmp_path / "bad.npz").write_bytes(bad)
        try:
            loaded = FlatTrees.load(tmp_path / "bad.npz")
        except ModelIntegrityError:
            n_refused += 1
            continue
        for field in fields(FlatTrees):  # the damage hit a byte without meaning, such as a time stamp
            assert np.array_equal(getattr(loaded, field.name), getattr(STUMPS, field.name))
    assert n_refused > 1000


# What is imported, and where compiled code is kept: each in a process of its own

BLOCK = "import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
SCORE = """
import sys
import numpy as np
from udfs.trees import FlatTrees, warm_up
trees, matrix = FlatTrees.load(sys.argv[1]), np.load(sys.argv[2])
def check(n_rows):
    expected = np.load(sys.argv[3])[:n_rows]
    assert trees.score(matrix[:, :n_rows]).tobytes() == expected.tobytes()
"""


def run_python(code, *arguments, path=ROOT, **environment):
    names = ("NUMBA_CACHE_DIR", "PYTHONPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=inherited | {"PYTHONPATH": str(path)} | environment,
        check=True,
        timeout=300,
        cwd=path if path.is_dir() else path.parent,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Trees, a matrix of 5,000 rows, and its scores."""
    directory = tmp_path_factory.mktemp("trees")
    trees = exported()
    matrix = awkward_matrix(trees, 5000)
    trees.save(directory / "trees.npz")
    np.save(directory / "matrix.npy", matrix)
    np.save(directory / "scores.npy", fitted_classifier().predict_proba(matrix.T)[:, 1])
    return [directory / name for name in ("trees.npz", "matrix.npy", "scores.npy")]


def test_small_batches_need_numpy_alone(files):
    blocked = ["numba", "llvmlite", "sklearn", "scipy", "pandas", "pyarrow", "mlflow", "pyspark"]
    code = BLOCK.format(blocked=blocked) + SCORE + "for n_rows in (0, 1, 4, 5, 300): check(n_rows)"
    run_python(code, *files)


def test_small_batches_do_not_import_what_is_installed(files):
    code = SCORE + "[check(n) for n in (1, 300)]; assert not {'numba', 'sklearn', 'scipy'} & set(sys.modules)"
    run_python(code, *files)


def test_without_numba_large_batches_are_scored_too(files):
    code = BLOCK.format(blocked=["numba"]) + SCORE + "assert not warm_up(); check(5000); check(1)"
    run_python(code, *files)


def test_with_its_compiler_disabled_numba_is_not_used(files):
    code = SCORE + "assert not warm_up(); check(5000)"
    run_python(code, *files, NUMBA_DISABLE_JIT="1")


def test_large_batches_load_the_compiled_loop_once_they_have_cost_what_that_takes_and_small_ones_use_it_from_then_on(
    files,
):
    code = """
import udfs.trees, udfs.trees_switch
udfs.trees_switch._REPAID_AT = int(9_000 * trees.depth.sum())
for n_rows in (1023, 1023, 1023, 1023, 1023, 1023, 1023, 1023, 1023, 5000):
    check(n_rows)
assert "numba" not in sys.modules
check(4500)
assert "numba" in sys.modules
udfs.trees.FlatTrees._score_interpreted = None
check(1)
check(300)
"""
    run_python(BLOCK.format(blocked=["sklearn", "scipy"]) + SCORE + code, *files)


def test_a_request_of_many_rows_for_a_small_model_does_not_wait_for_numba(files):
    """Ten trees for 10,000 rows take milliseconds, numba takes a second."""
    code = """
import dataclasses
end = int(trees.root[10])
few = {name: getattr(trees, name)[:end] for name in ("feature", "threshold", "missing_left", "value", "bounds_stop")}
few |= {name: getattr(trees, name)[:10] for name in ("root", "depth", "output")}
small = dataclasses.replace(trees, child=trees.child[: 2 * end], **few)
for _ in range(3):
    small.score(np.tile(matrix, 2))
assert "numba" not in sys.modules
small.score(np.tile(matrix, 200))
assert "numba" in sys.modules
"""
    run_python(SCORE + code, *files)


def test_compiled_loop_must_give_what_was_promised_before_it_answers_and_nothing_is_scored_if_it_does_not(
    files,
):
    code = """
import udfs.trees_switch
from feature_pipelines.errors import ModelIntegrityError
udfs.trees_switch._REPAID_AT = int(5_000 * trees.depth.sum())
scores = np.load(sys.argv[3])
promised = [(matrix[:, :64], scores[:64]), (matrix[:, 3:4], scores[3:4])]
other = FlatTrees.load(sys.argv[1])
for one in (trees, other):
    one.prove_loop_on(promised)
true = FlatTrees._score_compiled
def off(self, matrix, loop):
    scores = true(self, matrix, loop)
    return np.nextafter(scores, 1) if matrix.shape[1] == 1 else scores
FlatTrees._score_compiled = off
check(64)
assert "numba" not in sys.modules
for n_rows in (5000, 64, 1):
    try:
        check(n_rows)
    except ModelIntegrityError as exc:
        assert "1 of 1 scores differ (worst by 1 ULP)" in str(exc), exc
    else:
        raise SystemExit(f"{n_rows} rows were scored")
FlatTrees._score_compiled = true
trees = other
check(64)
FlatTrees._score_compiled = off
check(5000)
"""
    run_python(SCORE + code, *files)


@pytest.fixture
def package(tmp_path):
    """A copy of what the trees need, as a directory and as a zip."""
    directory = tmp_path / "package"
    for name in (
        "udfs/__init__.py",
        "udfs/trees.py",
        "udfs/trees_check.py",
        "udfs/trees_finish.py",
        "udfs/trees_loop.py",
        "udfs/trees_packed.py",
        "udfs/trees_switch.py",
        "udfs/trees_walk.py",
        "feature_pipelines/__init__.py",
        "feature_pipelines/errors.py",
        "feature_pipelines/parity.py",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        is_init = name.endswith("__init__.py")
        (directory / name).write_text("" if is_init else (ROOT / name).read_text())
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for file in sorted(directory.rglob("*.py")):
            archive.write(file, file.relative_to(directory))
    return directory


def test_compiled_code_is_kept_beside_the_module_and_not_used_if_it_is_damaged(files, package):
    run_python(SCORE + "assert warm_up(); check(5000)", *files, path=package)
    (kept,) = (package / "udfs/__pycache__").glob("trees_loop._evaluate*.nbc")
    kept.write_bytes(kept.read_bytes()[:1000])
    run_python(SCORE + "assert warm_up(); check(5000)", *files, path=package)


def test_compiled_code_of_a_zip_is_kept_in_the_home_of_the_user(files, package):
    home = package.parent / "home"
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    run_python(
        SCORE + "assert warm_up(); check(5000)", *files, path=package.parent / "package.zip", **environment
    )
    assert list(home.rglob("trees_loop._evaluate*.nbc"))


@pytest.mark.parametrize("kind", ["directory", "zip"])
def test_without_a_place_for_compiled_code_it_is_compiled_every_time(files, package, kind):
    path = package if kind == "directory" else package.parent / "package.zip"
    (package / "udfs/__pycache__").write_text("a file, so that nothing can be written here")
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null"}
    run_python(SCORE + "assert warm_up(); check(5000)", *files, path=path, **nowhere)
