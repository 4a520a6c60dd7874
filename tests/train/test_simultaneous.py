"""Simultaneous gradient steps on Spark, against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import RowError
from recsys_spark.kernels import hot_rows
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.joint_step import LENGTHS
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.train.half_iteration import row_problem
from tests.reference_joint import JointReference
from tests.train.test_fit_factors import LOSSES, N_ITEMS, N_USERS, fit, frame, observations, weighted_frame

SIMULTANEOUS = {"solver": "gradient", "updates": "simultaneous"}


@pytest.mark.parametrize("name", ["squared", "ials", "logistic"])
def test_steps_equal_dense_ones_for_any_number_of_blocks(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    triples = observations()
    settings = {**LOSSES[name], **SIMULTANEOUS, "gradient_steps": 3, "iterations": 2}
    model = fit(spark, weighted_frame(spark, triples), n_blocks=2, **settings)
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 9)
    split = fit(spark, weighted_frame(spark, triples[::-1], 1), n_blocks=7, **settings)

    problem = row_problem(TrainConfig(rank=4, **settings))
    shift = model.global_mean if name == "squared" else 0.0
    values = [(u, i, float(value >= 2.5) if name == "logistic" else value - shift) for u, i, value in triples]
    weights = [0.5 + u % 3 for u, *_ in triples]
    constant = model.global_mean if name == "logistic" else 0.0
    reference = JointReference(values, weights, constant, problem.regularization, problem.loss)
    users = np.zeros((N_USERS - 1, model.user_vectors.shape[1]))
    items = np.zeros((N_ITEMS - 1, users.shape[1]))
    items[:, :4] = initial_factors(0, ITEMS.number, np.arange(N_ITEMS - 1), 4)
    objectives = []
    for _ in range(2):
        # Momentum starts anew with every iteration.
        users, items, reached = reference.descend(users, items, LENGTHS, 3)
        objectives.append(reached[-1])

    for found in (model, split):
        assert [step.side for step in found.history] == ["both", "both"]
        np.testing.assert_allclose([step.objective for step in found.history], objectives, rtol=1e-4)
        np.testing.assert_allclose(found.user_vectors[:-1], users, rtol=5e-3, atol=2e-3)
        np.testing.assert_allclose(found.item_vectors[:-1], items, rtol=5e-3, atol=2e-3)
        assert not found.user_vectors[-1].any()


def test_bits_do_not_depend_on_blocks_and_training_stops_when_the_objective_rests(spark: SparkSession) -> None:
    ratings = frame(spark, observations())
    settings = {**SIMULTANEOUS, "iterations": 3, "gradient_steps": 1, "tolerance": 0.2}
    one, other = (fit(spark, ratings, n_blocks=n_blocks, **settings) for n_blocks in (1, 5))
    np.testing.assert_array_equal(one.user_vectors, other.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, other.item_vectors)
    assert [step.objective for step in one.history] == [step.objective for step in other.history]
    falls = [
        1 - after.objective / before.objective for before, after in zip(one.history, one.history[1:], strict=False)
    ]
    assert all(fall > 0 for fall in falls)
    assert [fall > 0.2 for fall in falls] == [True] * (len(falls) - 1) + [len(one.history) == 3 and falls[-1] > 0.2]


def test_a_row_that_overflows_is_named(spark: SparkSession) -> None:
    triples = [(u, i, 1e38 if (u, i) == (3, 0) else value) for u, i, value in observations()]
    with pytest.raises(RowError, match=r"simultaneous step, items: .* first of them row \d+ \(") as raised:
        fit(spark, frame(spark, triples), **SIMULTANEOUS)
    assert raised.value.side == "items"
