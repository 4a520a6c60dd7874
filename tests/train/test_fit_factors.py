"""The alternating loop on Spark, against the dense float64 specification."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark import shared_value
from recsys_spark.config import TrainConfig
from recsys_spark.errors import ContractError, NumericalError, RowError
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization, row_penalties
from recsys_spark.machine_folder import machine_folder
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.train import Factorization, fit_factors
from recsys_spark.train.global_mean import exact_mean
from recsys_spark.train.local_copies import open_copy, remove_copies
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.replicate import ReplicateExchange
from recsys_spark.train.side_blocks import SideBlocks, block_ratings
from tests import reference_als
from tests.reference_rows import RowReference

N_USERS, N_ITEMS = 30, 20


def observations(seed: int = 1, n: int = 200) -> list[tuple[int, int, float]]:
    """Ratings with the corners: user 0 has one, item 0 is rated by all, the last ids by nobody."""
    rng = np.random.default_rng(seed)
    pairs = {(0, 0)} | {(user, 0) for user in range(N_USERS - 1)}
    pairs |= {(int(u), int(i)) for u, i in rng.integers([1, 0], [N_USERS - 1, N_ITEMS - 1], (n, 2))}
    return [(u, i, float(np.float32(rng.integers(1, 11) / 2))) for u, i in sorted(pairs)]


def frame(spark: SparkSession, triples: list[tuple[int, int, float]], n_partitions: int = 3) -> DataFrame:
    users, items, values = zip(*triples, strict=True)
    table = pa.table(
        {
            "user_index": pa.array(users, pa.int32()),
            "item_index": pa.array(items, pa.int32()),
            "rating": pa.array(values, pa.float32()),
        }
    )
    return spark.createDataFrame(table).repartition(n_partitions)


def fit(spark: SparkSession, ratings: DataFrame, **settings: Any) -> Factorization:
    config = TrainConfig(**{"rank": 4, "iterations": 3, "tolerance": 0.0, "n_blocks": 2, **settings})
    return fit_factors(spark, ratings, config, n_users=N_USERS, n_items=N_ITEMS, progress=Progress())


def reference(triples: list[tuple[int, int, float]], **settings: Any) -> tuple[np.ndarray, np.ndarray, tuple[Any, ...]]:
    config = TrainConfig(**{"rank": 4, "iterations": 3, **settings})
    width = config.rank + config.uses_biases
    items = np.zeros((N_ITEMS, width))
    items[:, : config.rank] = initial_factors(config.seed, ITEMS.number, np.arange(N_ITEMS), config.rank)
    items[[i for i in range(N_ITEMS) if i not in {i for _, i, _ in triples}]] = 0
    mean = float(np.mean([value for _, _, value in triples])) if config.uses_biases else 0.0
    reg = (config.reg_param, config.bias_reg_param, config.reg_exponent, config.uses_biases)
    users = np.zeros((N_USERS, width))
    users, items, _ = reference_als.alternate(triples, users, items, mean, reg, config.iterations)
    return users, items, (mean, reg)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "auto"},
        {"solver": "cholesky"},
        {"solver": "dual"},
        {"solver": "cg", "cg_steps": 50},
        {"biases": False, "reg_exponent": 1.0, "reg_param": 0.1},
        {"rank": 0},
        {"rank": 25, "solver": "cholesky"},
    ],
)
def test_factors_equal_the_dense_reference(spark: SparkSession, settings: dict[str, Any]) -> None:
    triples = observations()
    model = fit(spark, frame(spark, triples), **settings)
    plain = {name: value for name, value in settings.items() if name not in ("solver", "cg_steps")}
    users, items, (mean, reg) = reference(triples, **plain)
    for ours, theirs in ((model.user_vectors, users), (model.item_vectors, items)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    objective = reference_als.full_objective(
        triples, model.user_vectors.astype(float), model.item_vectors.astype(float), mean, reg
    )
    assert model.history[-1].objective == pytest.approx(objective, rel=1e-5)
    assert model.global_mean == pytest.approx(mean, rel=1e-12)


def test_objective_never_rises_and_is_the_sum_of_its_parts(spark: SparkSession) -> None:
    model = fit(spark, frame(spark, observations()), iterations=8, solver="cg", cg_steps=2)
    objectives = [step.objective for step in model.history]
    assert len(objectives) == 16
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(objectives))
    assert objectives[-1] < 0.98 * objectives[0]
    for step in model.history:
        assert step.objective == pytest.approx(step.observed + step.unobserved + step.penalty, rel=1e-9)


@pytest.mark.parametrize("solver", ["auto", pytest.param("cg", marks=pytest.mark.slow)])
def test_factors_are_bit_identical_for_any_number_of_blocks(spark: SparkSession, solver: str) -> None:
    triples = observations()
    one = fit(spark, frame(spark, triples, 1), n_blocks=1, solver=solver)
    more_blocks_than_rows = 60
    for n_blocks, n_partitions in ((2, 5), (7, 1), (more_blocks_than_rows, 3)):
        other = fit(spark, frame(spark, triples[::-1], n_partitions), n_blocks=n_blocks, solver=solver)
        np.testing.assert_array_equal(one.user_vectors, other.user_vectors)
        np.testing.assert_array_equal(one.item_vectors, other.item_vectors)
        assert one.global_mean == other.global_mean
        assert [s.objective for s in one.history] == [s.objective for s in other.history]


def test_rows_without_ratings_are_zero_and_one_rating_is_enough(spark: SparkSession) -> None:
    model = fit(spark, frame(spark, observations()))
    assert not model.user_vectors[N_USERS - 1].any()
    assert not model.item_vectors[N_ITEMS - 1].any()
    assert (model.user_degrees[N_USERS - 1], model.user_degrees[0]) == (0, 1)
    assert model.item_degrees[0] == N_USERS - 1
    assert model.user_vectors[0].any()


def test_seed_decides_the_factors(spark: SparkSession) -> None:
    ratings = frame(spark, observations())
    same, again, other = (fit(spark, ratings, seed=seed, iterations=1).item_vectors for seed in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_training_stops_when_the_objective_rests(spark: SparkSession) -> None:
    model = fit(spark, frame(spark, observations()), iterations=200, tolerance=1e-3)
    assert 4 <= len(model.history) < 400
    last = [step.objective for step in model.history[-3::2]]
    assert last[0] - last[1] <= 1e-3 * last[0]


@pytest.mark.parametrize("value", [3.0, 0.0, -2.0])
def test_constant_ratings_leave_nothing_to_factors(spark: SparkSession, value: float) -> None:
    triples = [(u, i, value) for u, i, _ in observations()]
    model = fit(spark, frame(spark, triples))
    assert model.global_mean == value
    assert np.isfinite(model.user_vectors).all()
    scores = model.global_mean + model.user_vectors[:, -1:] + model.item_vectors[:, -1]
    np.testing.assert_allclose(scores, value, atol=1e-5)


def test_files_and_broadcasts_give_equal_bits(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = frame(spark, observations())
    by_file = fit(spark, ratings, n_blocks=3)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(shared_value, "is_one_machine", lambda spark: False)
        by_broadcast = fit(spark, ratings, n_blocks=3)
    np.testing.assert_array_equal(by_file.user_vectors, by_broadcast.user_vectors)
    np.testing.assert_array_equal(by_file.item_vectors, by_broadcast.item_vectors)
    assert by_file.footprint is not None
    assert by_broadcast.footprint is not None
    left, sent = (model.footprint.returned_bytes for model in (by_file, by_broadcast))
    assert 0 <= left - sent < 2 * 3 * 200, "vectors are counted wherever they went; files have names"


def test_ratings_far_from_zero_keep_their_differences(spark: SparkSession) -> None:
    near = fit(spark, frame(spark, observations()))
    far = fit(spark, frame(spark, [(u, i, 1e5 + value) for u, i, value in observations()]))
    np.testing.assert_allclose(far.user_vectors, near.user_vectors, atol=1e-3)
    assert far.mean_rating == pytest.approx(1e5 + near.mean_rating)
    assert far.history[-1].objective == pytest.approx(near.history[-1].objective, rel=1e-3)


def test_no_ratings_is_an_error(spark: SparkSession) -> None:
    empty = spark.createDataFrame([], "user_index int, item_index int, rating float")
    with pytest.raises(NumericalError, match="no ratings to train on"):
        fit(spark, empty)


def test_rise_of_the_objective_stops_training(spark: SparkSession) -> None:
    ratings = frame(spark, observations())
    config = TrainConfig(rank=2, iterations=2)
    users, items = block_ratings(ratings, N_USERS, N_ITEMS, 1)
    exchange = ReplicateExchange(spark, config, 0.0)
    try:
        state = LoopState(config, exchange)
        state.penalties = exchange.begin(users, items, None)
        step = state.solve(1, users, items)
        state.history[-1] = replace(step, objective=step.objective / 2)
        with pytest.raises(NumericalError, match="the objective rose"):
            state.solve(1, items, users)
    finally:
        exchange.release()
        users.release()
        items.release()


def test_blocks_whose_machine_lost_the_copy_are_sent_again(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = frame(spark, observations())
    undisturbed = fit(spark, ratings, n_blocks=3)
    solve = LoopState.solve

    def lose_copies_first(self: LoopState, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> Any:
        if iteration == 2:
            remove_copies(rows.copies)
        if iteration == 3:
            victim = machine_folder() / rows.copies / "block-1" / "values.npy"
            assert victim.exists(), "the second job leaves copies again"
            victim.write_bytes(b"damaged")
        return solve(self, iteration, rows, fixed)

    monkeypatch.setattr(LoopState, "solve", lose_copies_first)
    disturbed = fit(spark, ratings, n_blocks=3)
    np.testing.assert_array_equal(undisturbed.user_vectors, disturbed.user_vectors)
    np.testing.assert_array_equal(undisturbed.item_vectors, disturbed.item_vectors)


def test_nothing_is_left_behind(spark: SparkSession) -> None:
    before = set(machine_folder().iterdir())
    fit(spark, frame(spark, observations()))
    assert set(machine_folder().iterdir()) <= before
    assert open_copy("no-such-training", 0) is None


def test_a_row_that_overflows_is_named(spark: SparkSession) -> None:
    triples = [(u, i, 1e38 if (u, i) == (3, 0) else value) for u, i, value in observations()]
    with pytest.raises(RowError, match=r"iteration 1, items: .* first of them row 0 \(") as raised:
        # One block: of several that fail at once, any may be the first.
        fit(spark, frame(spark, triples), reg_param=1e-6, n_blocks=1)
    assert (raised.value.side, raised.value.row) == ("items", 0)


@pytest.mark.parametrize("n_partitions", [1, 2, 7])
def test_mean_is_exact_whatever_the_partitions(spark: SparkSession, n_partitions: int) -> None:
    values = [float(np.float32(v)) for v in np.random.default_rng(0).lognormal(0, 3, 500)]
    triples = [(k, 0, value) for k, value in enumerate(values)]
    means = {exact_mean(frame(spark, triples, n))[0] for n in (n_partitions, 3)}
    assert len(means) == 1
    assert means.pop() == pytest.approx(np.mean(values), rel=1e-9)


LOSSES: dict[str, dict[str, Any]] = {
    "squared": {"loss": "squared"},
    "unobserved": {"loss": "squared", "unobserved_weight": 0.1},
    "implicit": {"loss": "implicit", "alpha": 2.0},
    "ials": {"loss": "ials", "unobserved_weight": 0.2},
    "logistic": {"loss": "logistic", "positive_threshold": 2.5, "newton_steps": 8},
    "nonnegative": {"loss": "ials", "unobserved_weight": 0.2, "nonnegative": True},
}


def weighted_frame(spark: SparkSession, triples: list[tuple[int, int, float]], n_partitions: int = 3) -> DataFrame:
    """Ratings with weights and times that follow from their indexes."""
    return frame(spark, triples, n_partitions).selectExpr(
        "*",
        "float(0.5 + user_index % 3) as weight",
        "timestamp_seconds(1000000000 + 86400 * (item_index % 5)) as timestamp",
    )


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_reaches_a_stationary_point_of_its_own_objective(spark: SparkSession, name: str) -> None:
    triples = observations()
    settings = {"half_life_days": 2.0, "iterations": 6, "solver": "cholesky", **LOSSES[name]}
    model = fit(spark, weighted_frame(spark, triples), **settings)
    objectives = [step.objective for step in model.history]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(objectives))

    config = TrainConfig(**{"rank": 4, **settings})
    regularization = Regularization(config.reg_param, config.bias_reg_param, config.reg_exponent, config.uses_biases)
    loss = Loss(config.loss, config.alpha, config.unobserved_weight)
    weights = {(u, i): (0.5 + u % 3) * 0.5 ** ((4 - i % 5) / 2.0) for u, i, _ in triples}
    shift = model.global_mean if config.loss == "squared" else 0.0
    users = model.user_vectors[model.user_degrees > 0].astype(float)
    label = (lambda value: float(value >= 2.5)) if config.loss == "logistic" else (lambda value: value - shift)
    total = 0.0
    for item in range(N_ITEMS - 1):
        own = [(u, label(value), weights[u, i]) for u, i, value in triples if i == item]
        columns, values, weight = zip(*own, strict=True)
        constant = model.global_mean if config.loss == "logistic" else 0.0
        row = RowReference(columns, values, weight, users, constant, regularization, loss)
        vector = model.item_vectors[item].astype(float)
        total += row.objective(vector)
        gradient = row.gradient(vector, 1e-4)
        free = vector > 0 if config.nonnegative else np.ones(len(vector), bool)
        np.testing.assert_allclose(gradient[free], 0, atol=2e-3 * max(1.0, np.abs(vector).max()))
    n_items = N_ITEMS - 1
    for user, vector in enumerate(users):
        degree = model.user_degrees[user] + (config.unobserved_weight * n_items)
        total += float(row_penalties(np.array([0]), len(vector), regularization, degree - 1)[0] @ vector**2)
    assert model.history[-1].objective == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("name", ["ials", "logistic"])
def test_losses_are_bit_identical_for_any_number_of_blocks(spark: SparkSession, name: str) -> None:
    triples = observations()
    settings = {"solver": "auto", "rank": 9, **LOSSES[name]}
    one = fit(spark, weighted_frame(spark, triples, 1), n_blocks=1, **settings)
    other = fit(spark, weighted_frame(spark, triples[::-1], 4), n_blocks=7, **settings)
    np.testing.assert_array_equal(one.user_vectors, other.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, other.item_vectors)


def test_labels_have_to_be_labels_and_both_of_them(spark: SparkSession) -> None:
    with pytest.raises(ContractError, match=r"set train\.positive_threshold"):
        fit(spark, frame(spark, observations()), loss="logistic")
    with pytest.raises(ContractError, match="only 1"):
        fit(spark, frame(spark, observations()), loss="logistic", positive_threshold=0.1)
    with pytest.raises(NumericalError, match="no rating reaches the threshold"):
        fit(spark, frame(spark, observations()), loss="ials", unobserved_weight=0.1, positive_threshold=9.0)
