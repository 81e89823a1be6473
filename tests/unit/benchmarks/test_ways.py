"""Costs that are compared must be added up as they are billed."""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_ways import Prices

PRICES = Prices(core_hour=0.36, gb_second=0.00002, million_requests=0.2, function_gb=0.5)


def test_cores_are_paid_by_the_hour_for_as_long_as_a_million_rows_take() -> None:
    assert PRICES.of_cores(10_000, cores=2) == pytest.approx(100 / 3600 * 2 * 0.36)


def test_requests_are_paid_by_the_begun_millisecond_and_each() -> None:
    assert PRICES.of_requests(0.0101, rows=100) == pytest.approx(10_000 * (0.011 * 0.5 * 0.00002 + 0.2e-6))
    assert PRICES.of_requests(0.0001, rows=1) == pytest.approx(1e6 * (0.001 * 0.5 * 0.00002 + 0.2e-6))
