"""Flat trees give the bits of scikit-learn, LightGBM and XGBoost, or say why there are none."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from feature_pipelines.errors import ContractError, ModelError
from udfs.trees import FlatTrees
from udfs.trees_export import certify_trees, export_trees

N_FEATURES, N_ROWS = 6, 500
CODE, HALVES = 3, 4  # two features that may be categories: whole numbers to 39, and halves from -1 to 2
SPECIAL = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    1e-45,
    -1e-45,
    7e-46,
    1.1754942e-38,
    1e-35,
    -1e-35,
]
SPECIAL += [9e-36, 1e300, -1e300, 3.4028235677973362e38, 3.4028235677973366e38, 1.0, -1.0, 0.5, -0.5, -0.999]
SPECIAL += [1 - 1e-12, 39.0, 40.0, 41.5, 2.0**24, 2.0**31, 2.0**53, -3.0]
SINGLE_NEIGHBOURS = [1 - 2.0**-24, 1 + 2.0**-24, 1 + 2.0**-23]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Training on tables this small is slower with more, above all while other tests run."""
    with threadpool_limits(1):
        yield


def bits(scores):
    return np.asarray(scores, np.float64).view(np.uint64).tolist()


@functools.cache
def training_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N_ROWS, N_FEATURES))
    rows[rng.random(N_ROWS) < 0.2, 1] = np.nan
    rows[:, 2] = rows[:, 2].astype(np.float32)
    rows[:, CODE] = rng.integers(0, 40, N_ROWS)
    rows[:, HALVES] = rng.integers(-2, 5, N_ROWS) / 2
    rows[:, 5] *= 1e-40
    target = rows[:, 0] + (rows[:, CODE] % 5 > 2) + np.isnan(rows[:, 1]) + 2 * (rows[:, HALVES] == 0.5)
    rows.setflags(write=False)
    return rows, target + rng.normal(size=N_ROWS) * 0.3


def fit(estimator, *, classes=0, filled=False, positive=False, **options):
    rows, target = training_rows()
    if filled:
        rows = np.nan_to_num(rows)
    if classes:
        target = np.digitize(target, np.quantile(target, np.arange(1, classes) / classes))
    elif positive:
        target = np.exp(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows, target, **options)


@np.errstate(all="ignore")
def awkward_matrix(trees, n_rows=700, seed=1):
    """A feature-major matrix of decision points, their float64 and float32 neighbours, special values and noise."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(trees.n_features, n_rows))
    matrix[CODE] = rng.integers(-3, 45, n_rows)
    is_split = trees.child[0::2] != trees.child[1::2]
    for f in range(trees.n_features):
        at = np.concatenate([trees.threshold[is_split & (trees.feature == f)], trees.bounds])
        single = at.astype(np.float32)
        near = [single, *(np.nextafter(single, np.float32(end)) for end in (np.inf, -np.inf))]
        near = np.concatenate(near).astype(np.float64)
        halfway = (near + np.nextafter(near.astype(np.float32), np.float32(np.inf))) / 2
        pool = [
            at,
            np.nextafter(at, np.inf),
            np.nextafter(at, -np.inf),
            near,
            halfway,
            SPECIAL,
            SINGLE_NEIGHBOURS,
        ]
        chosen = rng.random(n_rows) < 0.4
        matrix[f, chosen] = rng.choice(np.concatenate(pool), chosen.sum())
    matrix[rng.random(matrix.shape) < 0.04] = np.nan
    return matrix


HISTOGRAM = {"max_iter": 8, "random_state": 0}
CATEGORIES = {"categorical_features": [HALVES, CODE]}
PLAIN = {"n_estimators": 8, "random_state": 0}
FOREST = {**PLAIN, "n_jobs": 1}
LIGHT = {**FOREST, "verbose": -1, "min_child_samples": 5}
EAGER = {"cat_smooth": 1, "min_data_per_group": 5}
BAGGED = {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}
TYPED = {"enable_categorical": True, "feature_types": ["q", "q", "q", "c", "q", "q"]}
KINDS = {
    "histogram, two classes, categories": lambda: fit(
        HistGradientBoostingClassifier(**HISTOGRAM, **CATEGORIES), classes=2
    ),
    "histogram, four classes, categories": lambda: fit(
        HistGradientBoostingClassifier(**HISTOGRAM, **CATEGORIES, early_stopping=True), classes=4
    ),
    "histogram, ten classes": lambda: fit(HistGradientBoostingClassifier(**HISTOGRAM), classes=10),
    "histogram, regression, categories with NaN": lambda: fit(
        HistGradientBoostingRegressor(**HISTOGRAM, categorical_features=[CODE, HALVES])
    ),
    "histogram, gamma": lambda: fit(HistGradientBoostingRegressor(**HISTOGRAM, loss="gamma"), positive=True),
    "boosting, two classes": lambda: fit(GradientBoostingClassifier(**PLAIN), classes=2, filled=True),
    "boosting, exponential": lambda: fit(
        GradientBoostingClassifier(**PLAIN, loss="exponential"), classes=2, filled=True
    ),
    "boosting, from zero": lambda: fit(
        GradientBoostingClassifier(**PLAIN, init="zero"), classes=3, filled=True
    ),
    "boosting, ten classes": lambda: fit(GradientBoostingClassifier(**PLAIN), classes=10, filled=True),
    "boosting, regression": lambda: fit(GradientBoostingRegressor(**PLAIN), filled=True),
    "boosting, huber": lambda: fit(
        GradientBoostingRegressor(**PLAIN, loss="huber", max_leaf_nodes=9), filled=True
    ),
    "forest, two classes": lambda: fit(RandomForestClassifier(**FOREST), classes=2),
    "forest, four classes": lambda: fit(RandomForestClassifier(**FOREST, max_depth=4), classes=4),
    "forest, regression": lambda: fit(RandomForestRegressor(**FOREST)),
    "extra trees, three classes": lambda: fit(ExtraTreesClassifier(**FOREST), classes=3),
    "extra trees, regression": lambda: fit(ExtraTreesRegressor(**FOREST, max_depth=5)),
    "LightGBM, two classes, categories": lambda: fit(
        lightgbm.LGBMClassifier(**LIGHT, **EAGER), classes=2, categorical_feature=[CODE]
    ),
    "LightGBM, zero is missing": lambda: fit(
        lightgbm.LGBMClassifier(**LIGHT, sigmoid=1.7, zero_as_missing=True), classes=2
    ),
    "LightGBM, nothing is missing": lambda: fit(lightgbm.LGBMRegressor(**LIGHT, use_missing=False)),
    "LightGBM, four classes": lambda: fit(
        lightgbm.LGBMClassifier(**LIGHT, **EAGER),
        classes=4,
        categorical_feature=[CODE],
    ),
    "LightGBM, one against all": lambda: fit(
        lightgbm.LGBMClassifier(**LIGHT, objective="multiclassova"), classes=3
    ),
    "LightGBM, regression": lambda: fit(lightgbm.LGBMRegressor(**LIGHT), categorical_feature=[CODE]),
    "LightGBM, forest": lambda: fit(lightgbm.LGBMClassifier(**LIGHT, **BAGGED), classes=2),
    "LightGBM, dart": lambda: fit(lightgbm.LGBMRegressor(**LIGHT, boosting_type="dart")),
    "LightGBM, square root": lambda: fit(lightgbm.LGBMRegressor(**LIGHT, reg_sqrt=True)),
    "LightGBM, poisson": lambda: fit(lightgbm.LGBMRegressor(**LIGHT, objective="poisson"), positive=True),
    "XGBoost, two classes": lambda: fit(xgboost.XGBClassifier(**FOREST), classes=2),
    "XGBoost, base score": lambda: fit(xgboost.XGBClassifier(**FOREST, base_score=0.3), classes=2),
    "XGBoost, categories": lambda: fit(
        xgboost.XGBClassifier(**FOREST, **TYPED, max_cat_to_onehot=1), classes=2
    ),
    "XGBoost, one category each": lambda: fit(
        xgboost.XGBRegressor(**FOREST, **TYPED, max_cat_to_onehot=99, max_depth=8)
    ),
    "XGBoost, four classes": lambda: fit(xgboost.XGBClassifier(**FOREST, **TYPED), classes=4),
    "XGBoost, poisson": lambda: fit(xgboost.XGBRegressor(**FOREST, objective="count:poisson"), positive=True),
    "XGBoost, forest": lambda: fit(xgboost.XGBRFClassifier(**FOREST), classes=2),
}
MULTICLASS = [name for name in KINDS if "four" in name or "three" in name or "ten" in name]


@functools.cache
def fitted(name):
    return KINDS[name]()


@functools.cache
def exported(name):
    return export_trees(fitted(name))


def count_differing(name, trees):
    certificate = certify_trees(trees, fitted(name), awkward_matrix(exported(name), 400))
    return max(certificate.mismatches.values())


# The same bits


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_certified_on_awkward_rows(name):
    trees = exported(name)
    matrix = awkward_matrix(trees)
    certificate = certify_trees(trees, fitted(name), matrix)
    assert certificate.is_identical, certificate
    assert certificate.n_rows > 300
    assert sum("interpreted" in way for way in certificate.mismatches) == 6
    assert sum("compiled" in way for way in certificate.mismatches) == 6


@pytest.mark.parametrize("name", KINDS)
def test_saved_trees_score_alike(name, tmp_path):
    trees = exported(name)
    trees.save(tmp_path / "trees.npz")
    loaded = FlatTrees.load(tmp_path / "trees.npz")
    matrix = awkward_matrix(trees)
    refused = trees.refused(matrix)
    matrix = matrix[:, ~refused] if refused is not None else matrix
    assert bits(loaded.score(matrix)) == bits(trees.score(matrix))
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "trees.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


@pytest.mark.parametrize("name", MULTICLASS)
def test_several_classes_give_a_row_of_scores_each(name):
    trees = exported(name)
    n_classes = len(fitted(name).classes_)
    assert trees.n_outputs == n_classes > 2
    for n_rows in (0, 1, 5, 300):
        scores = trees.score(np.full((N_FEATURES, n_rows), 0.25))
        assert scores.shape == (n_rows, n_classes)
        assert np.allclose(scores.sum(axis=1), 1.0) or "all" in name


def test_kinds_cover_what_differs_in_the_arrays():
    trees = [exported(name) for name in KINDS]
    assert {t.link for t in trees} == {
        "identity", "logit", "log", "exp", "softmax", "softmax_by_row", "softmax_c", "square"
    }  # fmt: skip
    assert {t.precision for t in trees} == {"single", "double"}
    assert {t.n_values for t in trees} == {1, 3, 4}
    assert {(t.limit < np.inf).any() for t in trees} == {True, False}
    assert {(t.takes_nan == 1).all() for t in trees} == {True, False}
    n_bounds = np.concatenate([np.diff(t.bounds_stop, prepend=0) for t in trees])
    assert n_bounds.max() > 20
    assert max(np.unique(t.bounds).size for t in trees) > 64  # more codes than a word has bits
    depths = np.concatenate([t.depth for t in trees])
    assert depths.min() < 5 < 8 < depths.max()


def test_early_stopped_models_use_the_trees_that_their_library_uses():
    rows, target = training_rows()
    split = N_ROWS // 2
    early = xgboost.XGBRegressor(n_estimators=99, n_jobs=1, early_stopping_rounds=2, learning_rate=0.9)
    early.fit(rows[:split], target[:split], eval_set=[(rows[split:], target[split:])], verbose=False)
    light = lightgbm.LGBMRegressor(**(LIGHT | {"n_estimators": 99, "learning_rate": 0.9}))
    stop = lightgbm.early_stopping(2, verbose=False)
    light.fit(
        rows[:split], target[:split], eval_X=(rows[split:],), eval_y=(target[split:],), callbacks=[stop]
    )
    for estimator, n_trees in ((early, early.best_iteration + 1), (light, light.best_iteration_)):
        trees = export_trees(estimator)
        assert trees.root.size == n_trees < 99
        assert certify_trees(trees, estimator, awkward_matrix(trees)).is_identical


def test_forest_on_two_threads_is_added_up_in_the_order_of_its_trees():
    one, two = (fit(RandomForestRegressor(8, random_state=0, n_jobs=n)) for n in (1, 2))
    matrix = np.nan_to_num(training_rows()[0].T.copy())
    assert bits(export_trees(two).score(matrix)) == bits(one.predict(matrix.T))


def test_negative_zero_leaves_and_baselines_add_up_as_in_the_library():
    estimator = RandomForestRegressor(**FOREST).fit(training_rows()[0], np.full(N_ROWS, -0.0))
    trees = export_trees(estimator)
    assert certify_trees(trees, estimator, awkward_matrix(trees)).is_identical
    assert bits(trees.score(np.zeros((N_FEATURES, 1)))) == bits([0.0])


@pytest.mark.parametrize("name", [n for n in KINDS if n.startswith("XGBoost")])
def test_scores_of_xgboost_are_float32_numbers(name):
    scores = exported(name).score(np.random.default_rng(2).normal(size=(N_FEATURES, 50)))
    assert bits(scores) == bits(scores.astype(np.float32))


# What a library refuses


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("forest, regression", np.nan, False),
        ("forest, regression", np.inf, True),
        ("forest, regression", 3.4028235677973362e38, False),
        ("forest, regression", 3.4028235677973366e38, True),
        ("boosting, two classes", np.nan, True),
        ("boosting, two classes", -1e300, True),
        ("histogram, two classes, categories", np.nan, False),
        ("histogram, two classes, categories", -np.inf, True),
        ("histogram, two classes, categories", 1e308, False),
        ("histogram, ten classes", np.inf, False),
        ("LightGBM, regression", np.inf, False),
        ("XGBoost, two classes", np.inf, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_rows", [1, 6000])
def test_values_that_the_library_refuses_are_refused(name, value, is_refused, n_rows):
    matrix = np.zeros((N_FEATURES, n_rows))
    matrix[CODE, n_rows // 2] = value
    estimator = fitted(name)
    with np.errstate(over="ignore"):
        if not is_refused:
            assert estimator.predict(matrix.T).shape == (n_rows,)
            assert exported(name).score(matrix).shape[0] == n_rows
            return
        with pytest.raises(ValueError, match=r"infinity|NaN"):
            estimator.predict(matrix.T)
    said = f"1 of {n_rows} rows hold a value that the estimator refuses, in feature 3 .*row: {n_rows // 2}"
    with pytest.raises(ContractError, match=said):
        exported(name).score(matrix)


def test_certificate_counts_rows_that_only_one_of_both_refuses():
    trees = exported("forest, regression")
    matrix = awkward_matrix(trees)
    strict = replace(trees, takes_nan=np.zeros(N_FEATURES, np.uint8))
    certificate = certify_trees(strict, fitted("forest, regression"), matrix)
    assert certificate.mismatches["refused by flat trees alone"] > 0
    assert not certificate.is_identical
    lax = replace(trees, limit=np.full(N_FEATURES, np.inf))
    certificate = certify_trees(lax, fitted("forest, regression"), matrix)
    assert certificate.mismatches == {"refused by the library alone": matrix.shape[1]}


def test_nothing_is_certified_where_all_rows_are_refused():
    name = "boosting, two classes"
    certificate = certify_trees(exported(name), fitted(name), np.full((N_FEATURES, 3), np.nan))
    assert certificate.n_rows == 0
    assert not certificate.is_identical


# Mutants


def mutate_value(trees):
    """The last tree's leaves, a little larger."""
    is_leaf = (trees.child[0::2] == trees.child[1::2]) & (np.arange(trees.feature.size) >= trees.root[-1])
    changed = (trees.value + 2.0**-9 * np.repeat(is_leaf, trees.n_values)).astype(np.float32)
    return {"value": np.where(np.repeat(is_leaf, trees.n_values), changed, trees.value)}


def mutate_baseline(trees):
    return {"baseline": trees.baseline + 2.0**-9 * (np.arange(trees.n_outputs) == 0)}


def mutate_missing(trees):
    is_split = trees.child[0::2] != trees.child[1::2]
    return {"missing_left": np.where(is_split, 1 - trees.missing_left, 0).astype(np.uint8)}


@np.errstate(all="ignore")
def mutate_threshold(trees):
    """One float64 further: as if x < threshold were meant."""
    is_number = np.isfinite(trees.threshold) & (np.diff(trees.bounds_stop, prepend=0) == 0)
    return {"threshold": np.where(is_number, np.nextafter(trees.threshold, -np.inf), trees.threshold)}


MUTANTS = [mutate_value, mutate_baseline, mutate_missing, mutate_threshold]


@pytest.mark.parametrize("mutate", MUTANTS)
@pytest.mark.parametrize("name", KINDS)
def test_mutant_is_caught(name, mutate):
    trees = exported(name)
    if mutate is mutate_missing and "boosting" in name:
        pytest.skip("takes no missing values")
    if mutate is mutate_threshold and "zero is missing" in name:
        pytest.skip("has bounds in place of thresholds")
    assert count_differing(name, replace(trees, **mutate(trees))) > 0


@pytest.mark.parametrize("name", [name for name in KINDS if "categor" in name or "zero is missing" in name])
def test_bounds_one_number_further_are_caught(name):
    trees = exported(name)
    assert trees.bounds.size > 10
    assert count_differing(name, replace(trees, bounds=np.nextafter(trees.bounds, np.inf))) > 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("forest, regression", {"divisor": 7.0}),
        ("boosting, exponential", {"slope": 1.0}),
        ("LightGBM, zero is missing", {"slope": 1.0}),
        ("XGBoost, two classes", {"precision": "double"}),
        ("XGBoost, four classes", {"precision": "double"}),
        ("LightGBM, square root", {"link": "identity"}),
        ("boosting, ten classes", {"link": "softmax"}),
        ("XGBoost, poisson", {"link": "identity"}),
    ],
)
def test_other_arithmetic_is_caught(name, change):
    assert count_differing(name, replace(exported(name), **change)) > 0


def test_outputs_that_change_places_are_caught():
    name = "LightGBM, four classes"
    trees = exported(name)
    assert count_differing(name, replace(trees, output=trees.output[::-1].copy())) > 0


def test_certificate_of_another_number_of_outputs_counts_all_rows():
    trees = exported("XGBoost, two classes")
    matrix = awkward_matrix(trees)
    certificate = certify_trees(trees, fitted("XGBoost, four classes"), matrix)
    assert set(certificate.mismatches.values()) == {matrix.shape[1], 1024}


# What has no export


def hinge():
    rows, target = training_rows()
    return xgboost.XGBClassifier(n_estimators=2, objective="binary:hinge").fit(rows, target > 0)


def of_text(**options):
    pandas = pytest.importorskip("pandas")
    rows, target = training_rows()
    frame = pandas.DataFrame(rows, columns=list("abcdef"))
    frame["d"] = pandas.Categorical([f"code {int(code)}" for code in rows[:, CODE]])
    return frame, target


REFUSED = {
    "not fitted": (RandomForestClassifier, "RandomForestClassifier is not fitted"),
    "boosting not fitted": (GradientBoostingRegressor, "GradientBoostingRegressor is not fitted"),
    "LightGBM not fitted": (lightgbm.LGBMRegressor, "LGBMRegressor is not fitted"),
    "XGBoost not fitted": (xgboost.XGBRegressor, "XGBRegressor is not fitted"),
    "starts from a model": (
        lambda: fit(GradientBoostingRegressor(n_estimators=3, init=LinearRegression()), filled=True),
        "starts from LinearRegression",
    ),
    "several targets": (
        lambda: RandomForestRegressor(2).fit(training_rows()[0], np.ones((N_ROWS, 2))),
        "predicts 2 targets",
    ),
    "one class": (
        lambda: RandomForestClassifier(2).fit(training_rows()[0], np.ones(N_ROWS)),
        "has one class",
    ),
    "categories of text": (
        lambda: HistGradientBoostingRegressor(max_iter=2).fit(*of_text()),
        r"has categories of object|has categories of str",
    ),
    "categories numbered by XGBoost": (
        lambda: xgboost.XGBRegressor(n_estimators=2, enable_categorical=True).fit(*of_text()),
        "has categories that it numbers itself",
    ),
    "linear leaves": (
        lambda: fit(lightgbm.LGBMRegressor(**LIGHT, linear_tree=True)),
        "has linear models in its leaves",
    ),
    "objective without a link": (
        lambda: fit(lightgbm.LGBMRegressor(**LIGHT, objective="cross_entropy_lambda"), classes=2),
        "has the objective cross_entropy_lambda",
    ),
    "stops early": (
        lambda: fit(lightgbm.LGBMClassifier(**LIGHT, pred_early_stop=True), classes=2),
        "stops early when it predicts",
    ),
    "dart": (lambda: fit(xgboost.XGBRegressor(n_estimators=2, booster="dart")), "is a dart model"),
    "linear": (
        lambda: fit(xgboost.XGBRegressor(n_estimators=2, booster="gblinear"), filled=True),
        "gblinear",
    ),
    "another missing value": (
        lambda: fit(xgboost.XGBRegressor(n_estimators=2, missing=0.0), filled=True),
        "takes 0.0 for missing",
    ),
    "hinge": (hinge, "has the objective binary:hinge"),
    "leaves of several values": (
        lambda: xgboost.XGBRegressor(n_estimators=2).fit(training_rows()[0], np.ones((N_ROWS, 2))),
        "gives several scores",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_flat_trees_cannot_do_is_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        export_trees(make())
