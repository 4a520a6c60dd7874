"""Training with side information on Spark: the objective, its descent, and going on from a checkpoint."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError
from recsys_spark.progress import Progress
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, Factorization, fit_factors
from recsys_spark.train.checkpoints import Checkpoints
from recsys_spark.train.side_blocks import SideBlocks
from tests.train.test_feature_regression import features
from tests.train.test_fit_factors import LOSSES, N_ITEMS, N_USERS, frame, observations

MAP_PENALTY = 2.0


def fit(
    spark: SparkSession, ratings: Any, continuation: Continuation | None = None, told: Any = None, **settings: Any
) -> Factorization:
    config = TrainConfig.model_validate(
        {"rank": 4, "iterations": 4, "tolerance": 0.0, "n_blocks": 2, "side_information": {"reg_param": MAP_PENALTY}}
        | settings
    )
    return fit_factors(
        spark, ratings, config, n_users=N_USERS, n_items=N_ITEMS, progress=Progress(),
        continuation=continuation or Continuation(), features=features() if told is None else told,
    )  # fmt: skip


def test_the_objective_is_that_of_the_dense_reference(spark: SparkSession) -> None:
    triples = observations()
    settings = {"reg_param": 2.0, "bias_reg_param": 0.5, "reg_exponent": 0.5}
    model = fit(spark, frame(spark, triples), **settings)
    users, items = model.user_vectors.astype(float), model.item_vectors.astype(float)
    observed = sum(
        (r - model.global_mean - users[u, -1] - items[i, -1] - users[u, :-1] @ items[i, :-1]) ** 2
        for u, i, r in triples
    )
    reg_params = np.array([2.0] * 4 + [0.5])
    scale = model.user_degrees**0.5
    penalty = (scale[:, None] * reg_params * users**2).sum()
    # The regression that fits the items best, each weighted as its penalty is.
    weights = model.item_degrees**0.5
    design = np.hstack([features().dense()[:N_ITEMS], np.ones((N_ITEMS, 1))]).astype(float)
    system = design.T @ (weights[:, None] * design) + MAP_PENALTY * np.eye(design.shape[1])
    matrix = np.linalg.solve(system, design.T @ (weights[:, None] * items))
    penalty += (weights[:, None] * reg_params * (items - design @ matrix) ** 2).sum()
    penalty += MAP_PENALTY * (reg_params * matrix**2).sum()
    assert model.history[-1].penalty == pytest.approx(penalty, rel=1e-5)
    assert model.history[-1].objective == pytest.approx(observed + penalty, rel=1e-5)
    apart = fit(
        spark, frame(spark, triples), reg_param=2.0, bias_reg_param=0.5, reg_exponent=0.5, side_information=None
    )
    assert np.abs(apart.item_vectors - model.item_vectors).max() > 0.01


@pytest.mark.parametrize("loss", ["ials", "logistic"])
def test_the_objective_never_rises_and_results_do_not_depend_on_blocks_and_exchange(
    spark: SparkSession, tmp_path: Path, loss: str
) -> None:
    triples = observations()
    settings = {**LOSSES[loss], "solver": "cg", "cg_steps": 2}
    model = fit(spark, frame(spark, triples), **settings)
    objectives = [step.objective for step in model.history]
    assert len(objectives) == 8
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(objectives))
    again = fit(spark, frame(spark, triples[::-1], 1), n_blocks=5, **settings)
    place = Continuation(storage=LocalStorage(), folder=str(tmp_path / "routed"))
    routed = fit(spark, frame(spark, triples), place, n_blocks=3, exchange="route", **settings)
    assert not routed.item_vectors.size, "nothing comes to the driver"
    for other in (again, routed.collected()):
        np.testing.assert_array_equal(other.item_vectors, model.item_vectors)
        np.testing.assert_array_equal(other.user_vectors, model.user_vectors)
        assert [replace(step, seconds=0) for step in other.history] == [
            replace(step, seconds=0) for step in model.history
        ]


def test_a_resumed_training_is_the_undisturbed_one_and_other_features_begin_anew(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = frame(spark, observations())
    whole = fit(spark, ratings)
    on_the_way = Continuation(
        Checkpoints(LocalStorage(), str(tmp_path / "checkpoints"), 1),
        storage=LocalStorage(),
        folder=str(tmp_path / "routed"),
    )
    fit(spark, ratings, on_the_way, iterations=3, exchange="route")
    resumed = fit(spark, ratings, replace(on_the_way, must_resume=True))
    np.testing.assert_array_equal(resumed.item_vectors, whole.item_vectors)
    assert [step.objective for step in resumed.history] == [step.objective for step in whole.history]
    other = features()
    rows = replace(other.rows, values=other.rows.values * np.float32(2))
    with pytest.raises(ConfigError, match="other code"):
        fit(spark, ratings, replace(on_the_way, must_resume=True), told=replace(other, rows=rows))


def test_what_side_information_cannot_do_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"side_information": {}})
    with pytest.raises(ConfigError, match="side information needs features"):
        fit_factors(spark, frame(spark, observations()), config, n_users=N_USERS, n_items=N_ITEMS, progress=Progress())


def test_hot_rows_are_solved_whole(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a floor of no ratings, the item that everybody has rated would be split.
    monkeypatch.setattr("recsys_spark.kernels.hot_rows.HOT_FLOOR", 0)
    seen: list[SideBlocks] = []
    solve = "recsys_spark.train.replicate.solve_side"
    from recsys_spark.train.half_iteration import solve_side

    monkeypatch.setattr(solve, lambda blocks, *given: seen.append(blocks) or solve_side(blocks, *given))
    model = fit(spark, frame(spark, observations()), iterations=1)
    assert [blocks.hot for blocks in seen] == [None, None]
    assert model.plan is not None
    assert [side.n_split for side in model.plan.sides.values()] == [0, 0], "and planned so"
