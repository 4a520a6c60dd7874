from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.config.gate import GateConfig
from recsys_spark.errors import ContractError
from recsys_spark.publish.churn import Churn
from recsys_spark.publish.limits import (
    Limit,
    Measured,
    limits_of_churn,
    limits_of_lists,
    limits_of_metrics,
    require_limits,
)

CHURN = Churn(None, 80, overlap=0.6, overlap_margin=0.05, changed_positions=0.5, same_lists=0.1)


def broken(limits: list[Limit]) -> list[str]:
    return [limit.name for limit in limits if limit.is_broken]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"max_lost_users": 0.2}, []),
        ({"max_lost_users": 0.19}, ["max_lost_users"]),
        ({"min_overlap": 0.65}, []),
        ({"min_overlap": 0.66}, ["min_overlap"]),
        ({"max_changed_positions": 0.5}, []),
        ({"max_changed_positions": 0.49}, ["max_changed_positions"]),
        ({"min_overlap": 0.9, "max_changed_positions": 0.1}, ["min_overlap", "max_changed_positions"]),
    ],
)
def test_limits_against_the_current_lists(settings: dict[str, Any], expected: list[str]) -> None:
    assert broken(limits_of_churn(GateConfig(**settings), CHURN, 100)) == expected


def test_short_lists_are_limited() -> None:
    assert broken(limits_of_lists(GateConfig(max_short_lists=0.1), 10, 1)) == []
    assert broken(limits_of_lists(GateConfig(max_short_lists=0.1), 10, 2)) == ["max_short_lists"]
    assert broken(limits_of_lists(GateConfig(max_short_lists=0.0), 0, 0)) == []


@pytest.mark.parametrize(("n", "is_broken"), [(200, False), (20_000, True)])
def test_a_metric_has_to_be_worse_beyond_doubt(n: int, is_broken: bool) -> None:
    config = GateConfig(max_metric_loss=0.01, min_gain_over_popularity=0.02)
    mine, popular, current = ({"ndcg": Measured(value, n)} for value in (0.10, 0.12, 0.14))
    found = limits_of_metrics(config, mine, popular, current)
    assert [limit.name for limit in found] == ["min_gain_over_popularity", "max_metric_loss"]
    assert [limit.is_broken for limit in found] == [is_broken, is_broken]
    assert found[0].value == pytest.approx(-0.02)
    assert found[1].value == pytest.approx(0.04)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
def test_no_values_vary_more_than_is_assumed(values: list[float]) -> None:
    measured = Measured(float(np.mean(values)), len(values))
    assert measured.variance >= np.var(values) / len(values) - 1e-12


def test_the_interval_holds_the_truth_nearly_always() -> None:
    rng = np.random.default_rng(0)
    n, inside = 400, 0
    for _ in range(300):
        a, b = (rng.binomial(1, 0.3, n).mean() for _ in range(2))
        (limit,) = limits_of_metrics(GateConfig(), {"ndcg": Measured(a, n)}, {"ndcg": Measured(b, n)}, {})
        inside += abs(limit.value) <= limit.margin
    assert inside >= 0.92 * 300
    assert math.isinf(Measured(0.5, 0).variance)


def test_what_was_not_measured_breaks_the_limits_that_are_about_it() -> None:
    config = GateConfig(max_metric_loss=0.0, min_gain_over_popularity=0.5)
    limits = limits_of_metrics(config, {}, {}, {"ndcg": Measured(0.9, 10)})
    assert broken(limits) == ["min_gain_over_popularity", "max_metric_loss"]
    with pytest.raises(ContractError, match="gain over popularity was not measured"):
        require_limits(limits, "there", force=False)
    assert require_limits(limits, "there", force=True) == ["min_gain_over_popularity", "max_metric_loss"]
    assert broken(limits_of_metrics(config, {"recall": Measured(0.1, 10)}, {}, {})) == ["min_gain_over_popularity"]
    assert limits_of_metrics(GateConfig(max_metric_loss=0.0), {}, {}, {}) == [], "of the first run nothing can be lost"
    assert limits_of_metrics(GateConfig(), {}, {"ndcg": Measured(0.1, 10)}, {"ndcg": Measured(0.9, 10)}) == []


def test_broken_limits_stop_publishing_unless_they_are_forced() -> None:
    limits = limits_of_churn(GateConfig(min_overlap=0.9, max_lost_users=0.1), CHURN, 100)
    with pytest.raises(ContractError) as caught:
        require_limits(limits, "there", force=False)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "lost users 0.2; overlap 0.6 ± 0.05" in text
    assert "gate.max_lost_users: 0.1; gate.min_overlap: 0.9" in text
    assert "--force" in text
    assert require_limits(limits, "there", force=True) == ["max_lost_users", "min_overlap"]
    assert require_limits([], "there", force=True) == []


def test_what_is_no_number_is_beyond_every_limit() -> None:
    nothing = Churn(None, 80, overlap=math.nan, overlap_margin=math.nan, changed_positions=math.nan, same_lists=0.1)
    config = GateConfig(min_overlap=0.1, max_changed_positions=0.9)
    assert broken(limits_of_churn(config, nothing, 80)) == ["min_overlap", "max_changed_positions"]
