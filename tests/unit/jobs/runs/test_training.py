from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake
from sklearn.ensemble import RandomForestRegressor

from feature_pipelines.columns import Float64
from feature_pipelines.errors import ConfigurationError, ContractError
from feature_pipelines.features.flights import FEATURES as FLIGHTS
from feature_pipelines.reasons import Reason, RowError, RowsRefused
from jobs.runs import train_run
from jobs.runs.outcome_labels import UNSEEN
from jobs.runs.training import build_training_set, fit_model, without_views
from tests.toy.bands import OUTPUT, band_rows
from tests.toy.houses import FEATURES
from tests.toy.workspace import Workspace, house_rows, price_rows

SPLIT_US = 1_583_020_800_000_000  # 2020-03-01T00:00Z


@pytest.fixture(scope="module")
def data(trained_workspace: Workspace):
    return build_training_set(trained_workspace.conf(), FEATURES)


def test_training_set_sees_the_view_rows_that_were_visible_at_each_request(trained_workspace, data) -> None:
    rates = trained_workspace.rows("rates").to_pylist()
    ttl = datetime.timedelta(days=30)
    town, asked = data.columns["town"], data.columns["asked_ts"]
    found = 0
    for i in range(0, len(data), 7):
        at = datetime.datetime.fromtimestamp(int(asked[i]) / 1e6, datetime.UTC)
        name = town.values.tolist()[i] if town.valid[i] else None
        visible = [r for r in rates if r["town"] == name and r["event_ts"] <= at and r["created_ts"] <= at]
        newest = max(visible, key=lambda r: (r["event_ts"], r["created_ts"]), default=None)
        if newest is None or newest["event_ts"] < at - ttl:
            assert np.isnan(data.columns["rate_pct"][i])
            continue
        tied = [
            r
            for r in visible
            if (r["event_ts"], r["created_ts"]) == (newest["event_ts"], newest["created_ts"])
        ]
        assert data.columns["rate_pct"][i] in [r["rate_pct"] for r in tied]
        found += 1
    assert found > 50


def test_nothing_that_became_known_after_the_split_is_learned_from(data) -> None:
    asked = data.columns["asked_ts"]

    assert (asked[data.held_out] >= SPLIT_US).all()
    assert (asked[~data.held_out] < SPLIT_US - 86_400_000_000).all()  # outcomes are known a day after
    assert data.left_out["outcome not yet known at the split"] > 0


def test_rows_that_break_the_contract_or_have_no_outcome_are_left_out_and_counted(
    workspace: Workspace,
) -> None:
    houses = house_rows(bad=[3, 5, 8])
    prices = price_rows(houses).slice(0, 1_900)
    workspace.write("houses", houses)
    workspace.write("house_prices", prices)

    result = build_training_set(workspace.conf(), FEATURES)

    assert result.left_out["NULL_NOT_ALLOWED"] == 3
    assert result.left_out["no outcome"] == 100
    assert len(result) + sum(result.left_out.values()) == 2_000


def test_max_rows_chooses_the_same_rows_for_a_seed(workspace: Workspace) -> None:
    chosen = [build_training_set(workspace.conf("train.max_rows=300"), FEATURES) for _ in range(2)]

    assert len(chosen[0]) == 300
    assert (chosen[0].columns["house_id"] == chosen[1].columns["house_id"]).all()
    other = build_training_set(workspace.conf("train.max_rows=300", "train.seed=5"), FEATURES)
    assert (other.columns["house_id"] != chosen[0].columns["house_id"]).any()


def test_classification_labels_are_one_above_the_bound(workspace: Workspace) -> None:
    result = build_training_set(
        workspace.conf("train.task=classification", "train.label_above=400"), FEATURES
    )

    price = dict(
        zip(
            *(workspace.rows("house_prices").column(n).to_pylist() for n in ("house_id", "price")),
            strict=True,
        )
    )
    expected = [float(price[i] > 400) for i in result.columns["house_id"].tolist()]
    assert result.label.tolist() == expected
    assert 0 < result.label.mean() < 1


def test_an_outcome_that_occurs_twice_is_refused(workspace: Workspace) -> None:
    prices = price_rows(house_rows())
    workspace.write("house_prices", pa.concat_tables([prices, prices.slice(0, 2)]))

    with pytest.raises(ContractError, match=r"has 2 row\(s\) whose house_id occurs twice"):
        build_training_set(workspace.conf(), FEATURES)


def test_an_outcome_recorded_after_the_split_is_not_learned_from(workspace: Workspace) -> None:
    """It happened before, but nobody could know it: the later of the two times counts."""
    prices = price_rows(house_rows())
    recorded = pa.array([SPLIT_US + 1] * prices.num_rows).cast(pa.timestamp("us", tz="UTC"))
    write_deltalake(
        workspace.table("house_prices"),
        prices.append_column("created_ts", recorded),
        mode="overwrite",
        schema_mode="overwrite",
    )

    with pytest.raises(ContractError, match="nothing to learn from"):
        build_training_set(workspace.conf(), FEATURES)


def test_keys_of_another_type_are_converted_or_named(workspace: Workspace) -> None:
    prices = price_rows(house_rows())
    narrow = prices.set_column(0, "house_id", prices.column("house_id").cast(pa.int32()))
    write_deltalake(workspace.table("house_prices"), narrow, mode="overwrite", schema_mode="overwrite")
    assert len(build_training_set(workspace.conf(), FEATURES)) > 0

    words = prices.set_column(0, "house_id", pa.array([f"house-{i}" for i in range(prices.num_rows)]))
    write_deltalake(workspace.table("house_prices"), words, mode="overwrite", schema_mode="overwrite")
    with pytest.raises(
        ContractError, match="'house_id' is int64 in the requests and string in .*house_prices"
    ):
        build_training_set(workspace.conf(), FEATURES)


def test_an_outcome_column_that_is_not_there_is_named_with_what_is(workspace: Workspace) -> None:
    with pytest.raises(ContractError, match="has no column 'prize'. Did you mean 'price'"):
        build_training_set(workspace.conf("train.label_column=prize"), FEATURES)


@pytest.mark.parametrize(
    ("split", "message"),
    [("2019-01-01T00:00:00Z", "nothing to learn from"), ("2021-01-01T00:00:00Z", "nothing to test")],
)
def test_a_split_that_leaves_one_side_empty_is_refused(
    workspace: Workspace, split: str, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        build_training_set(workspace.conf(f"train.split_at={split}"), FEATURES)


def test_an_empty_request_table_is_refused(workspace: Workspace) -> None:
    workspace.write("houses", house_rows().slice(0, 0))

    with pytest.raises(ContractError, match="is empty"):
        build_training_set(workspace.conf(), FEATURES)


def test_constants_are_fitted_on_the_rows_before_the_split_alone(workspace: Workspace) -> None:
    houses = house_rows()
    asked = houses.column("asked_ts").cast(pa.int64())
    late_town = pc.if_else(pc.greater(asked, SPLIT_US), pa.scalar("town-late"), houses.column("town"))
    workspace.write("houses", houses.set_column(4, "town", late_town))
    conf = workspace.conf()

    fitted = fit_model(conf, FEATURES, build_training_set(conf, FEATURES))

    assert "town-late" not in fitted.constants["towns"]
    assert "town-1" in fitted.constants["towns"]


def test_another_estimator_is_fitted_when_conf_names_one(workspace: Workspace) -> None:
    conf = workspace.conf(
        "train.estimator=sklearn.ensemble:RandomForestRegressor",
        "train.params.n_estimators=5",
        "train.params.n_jobs=2",
        "train.params.max_iter=null",  # which conf/houses.yaml sets for the estimator that it uses
    )

    fitted = fit_model(conf, FEATURES, build_training_set(conf, FEATURES))

    assert type(fitted.estimator) is RandomForestRegressor
    assert len(fitted.estimator.estimators_) == 5
    assert (fitted.estimator.random_state, fitted.estimator.n_jobs) == (conf.train.seed, 1)
    assert np.corrcoef(fitted.truth, fitted.predicted)[0, 1] > 0.9


def test_an_estimator_that_takes_no_null_names_the_features_that_have_one(workspace: Workspace) -> None:
    conf = workspace.conf(
        "train.estimator=sklearn.linear_model:LinearRegression", "train.params.max_iter=null"
    )
    message = (
        "sklearn.linear_model:LinearRegression refuses these features .*contains NaN. "
        r"Features that are null in some rows \(2\): town_code, rate_pct_gap"
    )

    with pytest.raises(ConfigurationError, match=message):
        fit_model(conf, FEATURES, build_training_set(conf, FEATURES))


def test_features_that_read_no_view_are_those_that_do_not_reach_one_by_any_way() -> None:
    alone = without_views(FEATURES)
    assert alone is not None
    assert alone.feature_names == ("area_squared", "town_code", "rooms_or_minus_one", "asked_hour")
    assert (alone.views, [one.name for one in alone.fitted]) == ((), ["towns"])
    assert without_views(alone) is None

    flights = without_views(FLIGHTS)
    assert flights is not None
    reads_a_view = {
        "plane_age_years",
        "plane_maker_code",
        "origin_crosswind_mph",
        "route_delay_minutes_trend",
    }
    assert not reads_a_view & set(flights.feature_names)
    assert {"carrier_code", "route_flights_per_day", "dep_month"} <= set(flights.feature_names)
    assert "plane_makers" not in [one.name for one in flights.fitted]


def modest_area(area_m2: Float64) -> Float64:
    """Area, m^2. Palaces are refused."""
    palaces = np.flatnonzero(area_m2 > 290)
    if len(palaces):
        raise RowsRefused(RowError(int(i), Reason.OUT_OF_RANGE, "", "a palace") for i in palaces)
    return area_m2


def test_rows_that_a_feature_refuses_are_left_out_and_counted(workspace: Workspace, data) -> None:
    refusing = replace(FEATURES, features=(*FEATURES.features, modest_area))
    is_palace = data.columns["area_m2"] > 290
    assert (is_palace & data.held_out).any()
    assert (is_palace & ~data.held_out).any()
    with pytest.raises(RowsRefused) as refused:
        fit_model(workspace.conf(), refusing, data)
    assert {error.row for error in refused.value.errors} <= set(np.flatnonzero(is_palace).tolist())

    rest, fitted = train_run._fit(workspace.conf(), refusing, data)

    assert len(rest) == len(data) - is_palace.sum()
    assert rest.left_out == {**data.left_out, "OUT_OF_RANGE": is_palace.sum()}
    assert (rest.columns["house_id"] == data.columns["house_id"][~is_palace]).all()
    assert (rest.label == data.label[~is_palace]).all()
    assert len(fitted.truth) == (data.held_out & ~is_palace).sum()
    unasked = fit_model(workspace.conf(), FEATURES, rest)
    assert np.array_equal(fitted.matrix[:-1], unasked.matrix, equal_nan=True)


def test_refusing_all_that_is_held_out_leaves_nothing_to_test(data) -> None:
    held_out = np.flatnonzero(data.held_out)
    with pytest.raises(ContractError, match=r"nothing to test: \d+ rows have an outcome, 0 of them held out"):
        data.without([RowError(int(i), Reason.BAD_VALUE, "x", "") for i in held_out])


# Several classes


@pytest.fixture
def banded(workspace: Workspace) -> Workspace:
    """The toy model's tables, and the band of each house's price."""
    workspace.write("house_bands", band_rows(house_rows()))
    return workspace


def late(houses: pa.Table) -> np.ndarray:
    return np.asarray(houses.column("asked_ts").cast(pa.int64())) >= SPLIT_US


def test_classes_are_those_of_the_rows_before_the_split_sorted(banded: Workspace) -> None:
    result = build_training_set(banded.conf(model="bands"), FEATURES)

    assert result.classes == ("cheap", "dear", "fair")
    band = dict(
        zip(*(banded.rows("house_bands").column(n).to_pylist() for n in ("house_id", "band")), strict=True)
    )
    named = [result.classes[int(i)] for i in result.label]
    assert named == [band[i] for i in result.columns["house_id"].tolist()]


def test_held_out_row_of_a_class_that_nothing_was_learned_from_is_left_out_by_name(banded: Workspace) -> None:
    bands = banded.rows("house_bands")
    houses = house_rows()
    order = np.argsort(bands.column("house_id").to_numpy())
    new = pc.if_else(
        pa.array(late(houses)), pa.scalar("brand-new"), bands.take(pa.array(order)).column("band")
    )
    some = pc.if_else(
        pa.array(np.arange(len(houses)) % 2 == 0), new, bands.take(pa.array(order)).column("band")
    )
    at = bands.schema.get_field_index("band")
    banded.write("house_bands", bands.take(pa.array(order)).set_column(at, "band", some))

    result = build_training_set(banded.conf(model="bands"), FEATURES)

    expected = int((late(houses) & (np.arange(len(houses)) % 2 == 0)).sum())
    assert result.left_out[UNSEEN] == expected > 100
    assert result.classes == ("cheap", "dear", "fair")
    assert len(result) + sum(result.left_out.values()) == 2_000
    assert not np.isnan(result.label).any()


def test_integers_are_classes_in_their_own_order(banded: Workspace) -> None:
    bands = banded.rows("house_bands")
    codes = pc.index_in(bands.column("band"), value_set=pa.array(["dear", "fair", "cheap"]))
    numbers = pc.multiply(pc.add(codes, 1), 5)  # 5, 10, 15: as texts "10" would be first
    at = bands.schema.get_field_index("band")
    write_deltalake(
        banded.table("house_bands"),
        bands.set_column(at, "band", numbers),
        mode="overwrite",
        schema_mode="overwrite",
    )

    assert build_training_set(banded.conf(model="bands"), FEATURES).classes == ("5", "10", "15")


def test_fit_of_several_classes_predicts_each(banded: Workspace) -> None:
    conf = banded.conf(model="bands")
    fitted = fit_model(conf, FEATURES, build_training_set(conf, FEATURES))

    assert fitted.output == OUTPUT
    assert fitted.predicted.shape == (len(fitted.truth), 3)
    assert (fitted.predicted.argmax(axis=1) == fitted.truth).mean() > 0.9
    assert fitted.estimator.classes_.tolist() == [0, 1, 2]


def test_two_classes_are_no_several(banded: Workspace) -> None:
    bands = banded.rows("house_bands")
    two = pc.replace_substring(bands.column("band"), "fair", "cheap")
    banded.write("house_bands", bands.set_column(bands.schema.get_field_index("band"), "band", two))
    conf = banded.conf(model="bands")

    with pytest.raises(ContractError, match=r"needs three classes or more .*; there are 2 \(cheap, dear\)"):
        fit_model(conf, FEATURES, build_training_set(conf, FEATURES))


def test_classes_by_name_are_no_regression(banded: Workspace) -> None:
    with pytest.raises(ContractError, match=r"'band' is string, and a regression needs numbers"):
        build_training_set(banded.conf("train.task=regression", model="bands"), FEATURES)


def test_estimator_without_probabilities_is_refused_for_several_classes(banded: Workspace) -> None:
    conf = banded.conf("train.estimator=sklearn.svm:LinearSVC", "train.params.max_iter=null", model="bands")
    with pytest.raises(ConfigurationError, match="needs predict_proba"):
        fit_model(conf, FEATURES, build_training_set(conf, FEATURES))
