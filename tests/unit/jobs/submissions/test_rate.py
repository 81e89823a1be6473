from __future__ import annotations

import pytest

from feature_pipelines.errors import ContractError
from jobs.submissions.rate import RateLimit


def test_so_many_at_once_then_a_steady_rate_each_for_itself() -> None:
    now = [100.0]
    limit = RateLimit(5, lambda: now[0])
    for _ in range(10):
        limit.check("one")
    with pytest.raises(ContractError, match="more than 5 requests a second") as refused:
        limit.check("one")
    assert refused.value.evidence["status"] == 429
    assert refused.value.evidence["retry_after"] == 1
    limit.check("other")
    now[0] += 0.2
    limit.check("one")
    with pytest.raises(ContractError):
        limit.check("one")
    now[0] += 3600
    for _ in range(10):
        limit.check("one")
    with pytest.raises(ContractError):
        limit.check("one")


def test_slow_rates_let_one_in_and_say_when_the_next_may_come() -> None:
    now = [0.0]
    limit = RateLimit(0.1, lambda: now[0])
    limit.check("one")
    with pytest.raises(ContractError) as refused:
        limit.check("one")
    assert refused.value.evidence["retry_after"] == 10
    now[0] += 10
    limit.check("one")
