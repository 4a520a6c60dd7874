from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.config import TrainConfig
from recsys_spark.config.tune import TuneConfig
from recsys_spark.errors import ConfigError
from recsys_spark.evaluate.trials import best_first, make_trials, rungs

SPACE = {"loss": ["squared", "ials"], "rank": [4, 8], "unobserved_weight": [0.0, 0.1]}


def test_a_grid_is_every_combination_that_is_a_valid_setting() -> None:
    train = TrainConfig(validation_share=0.1, warm_start=True, seed=5)
    trials, refused = make_trials(train, TuneConfig(method="grid", space=SPACE))
    assert len(trials) == 6
    assert refused == [{"loss": "ials", "rank": rank, "unobserved_weight": 0.0} for rank in (4, 8)]
    assert [trial.number for trial in trials] == sorted(trial.number for trial in trials)
    for trial in trials:
        assert all(getattr(trial.config, name) == value for name, value in trial.tried.items())
        assert (trial.config.seed, trial.config.validation_share, trial.config.warm_start) == (5, 0.0, False)


def test_random_trials_are_some_of_the_grid_the_same_for_the_same_seed() -> None:
    def drawn(seed: int) -> list[int]:
        config = TuneConfig(method="random", space=SPACE, trials=3, seed=seed)
        return [trial.number for trial in make_trials(TrainConfig(), config)[0]]

    assert drawn(0) == drawn(0)
    assert len(set(drawn(0))) == 3
    assert {tuple(drawn(seed)) for seed in range(5)} != {tuple(drawn(0))}


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to choose from"):
        make_trials(TrainConfig(), TuneConfig())
    space = {"loss": ["ials"], "rank": [4, 8], "unobserved_weight": [0.0]}
    with pytest.raises(ConfigError, match="no combination is a valid setting"):
        make_trials(TrainConfig(), TuneConfig(space=space))


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 10), st.floats(0.1, 0.9))
def test_rungs_have_ever_fewer_trials_and_more_iterations_and_end_in_full(
    n_trials: int, iterations: int, first: int, keep: float
) -> None:
    found = rungs(TuneConfig(first_iterations=first, keep_share=keep), iterations, n_trials)
    assert found[0][1] == n_trials
    assert found[-1][0] == iterations
    for (earlier, more), (later, fewer) in pairwise(found):
        assert later > earlier
        assert 1 <= fewer <= more
    assert rungs(TuneConfig(method="grid"), iterations, n_trials) == [(iterations, n_trials)]


def test_twenty_trials_cost_a_fraction_of_twenty_fits() -> None:
    found = rungs(TuneConfig(), 15, 20)
    assert found == [(3, 20), (9, 7), (15, 2)]
    before = dict.fromkeys(range(20), 0)
    total = 0
    for iterations, n_trials in found:
        total += sum(iterations - before[k] for k in range(n_trials))
        before |= dict.fromkeys(range(n_trials), iterations)
    assert total == 114, "of 300 iterations"


def test_the_best_come_first_and_what_is_not_finite_last() -> None:
    scores = {3: 0.2, 1: 0.5, 2: 0.5, 4: math.nan}
    assert best_first(scores, "ndcg") == [1, 2, 3, 4]
    assert best_first(scores, "rmse") == [3, 1, 2, 4]
