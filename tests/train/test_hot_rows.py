"""Hot rows on Spark: split over tasks, solved alike wherever their pieces are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.kernels import hot_rows
from recsys_spark.machine_folder import machine_folder
from recsys_spark.rating_blocks import ITEMS, blocks_from_arrow
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Factorization
from recsys_spark.train.local_copies import remove_copies
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.route import RouteExchange
from recsys_spark.train.route_blocks import FACTOR_BLOCK_SCHEMA
from recsys_spark.train.side_blocks import SideBlocks, block_ratings
from tests.train.test_fit_factors import LOSSES, N_ITEMS, N_USERS, fit, frame, observations, reference
from tests.train.test_route import fit as fit_exchange

# The other losses are for the slow tests.
_IN_EVERY_RUN = ("squared", "implicit")


@pytest.fixture(autouse=True)
def low_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rows with more than nine ratings hot, and cut them into pieces of about four."""
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 9)
    monkeypatch.setattr(hot_rows, "OBSERVATIONS_PER_PIECE", 4)


def assert_same(one: Factorization, other: Factorization) -> None:
    np.testing.assert_array_equal(one.user_vectors, other.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, other.item_vectors)
    timeless = [[replace(step, seconds=0) for step in model.history] for model in (one, other)]
    assert timeless[0] == timeless[1]


def test_pieces_hold_the_ratings_of_the_hot_rows_and_are_shared_out(spark: SparkSession) -> None:
    triples = observations()
    _, blocks = block_ratings(frame(spark, triples), N_USERS, N_ITEMS, 3)
    try:
        assert blocks.hot is not None
        hot = blocks.hot.rows
        assert hot.rows.tolist() == np.flatnonzero(blocks.degrees > 9).tolist()
        assert 0 in hot.rows
        assert 0 < len(hot.rows) < N_ITEMS - 1
        found, sizes = set(), []
        for number, pieces in blocks_from_arrow(blocks.hot.frame.toArrow().to_batches()):
            assert (pieces.row_index % 3 == number).all()
            rows = hot.rows[np.searchsorted(hot.first_pieces, pieces.row_index, side="right") - 1]
            columns = zip(pieces.column_index, np.repeat(rows, pieces.degrees), pieces.values, strict=True)
            found |= {(int(u), int(i), float(value)) for u, i, value in columns}
            sizes.append(pieces.nnz)
        assert found == {triple for triple in triples if triple[1] in hot.rows}
        assert sum(sizes) == len(found)
        assert max(sizes) <= 2 * np.median(sizes)
        assert (blocks.hot.value, blocks.hot.weight) == (5.0, 1.0)
    finally:
        blocks.release()


def test_factors_equal_the_dense_reference(spark: SparkSession) -> None:
    triples = observations()
    model = fit(spark, frame(spark, triples), iterations=2)
    users, items, _ = reference(triples, iterations=2)
    np.testing.assert_allclose(model.user_vectors, users, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(model.item_vectors, items, rtol=2e-3, atol=2e-4)
    assert model.plan is not None
    assert model.footprint is not None
    assert model.plan.items.n_split == np.count_nonzero(model.item_degrees > 9)
    assert "items split over all blocks" in model.plan.lines("as configured")[0]
    predicted, actual = model.plan.predicted.returned_bytes, model.footprint.returned_bytes
    assert actual / 2 <= predicted <= 2 * actual


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in _IN_EVERY_RUN else pytest.mark.slow) for name in LOSSES],
)
def test_every_loss_gives_equal_bits_for_any_number_of_blocks_and_both_exchanges(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = {"solver": "auto", "iterations": 2, **LOSSES[name]}
    # More blocks than items have rows: pieces of blocks that do not exist are summed by a job of their own.
    replicated, *others = (
        fit_exchange(spark, tmp_path, "replicate", n_blocks, **settings)
        for n_blocks in ((2, 1, 25) if name == "squared" else (2, 7))
    )
    routed = [
        fit_exchange(spark, tmp_path, "route", n_blocks, **settings) for n_blocks in (3, *[25] * (name == "squared"))
    ]
    for other in [*others, *routed]:
        assert_same(replicated, other)
    plan, footprint = routed[0].plan, routed[0].footprint
    assert plan is not None
    assert footprint is not None
    assert "items split over all blocks" in plan.lines("as configured")[0]
    predicted, actual = plan.predicted.shuffle_bytes_per_iteration, footprint.shuffle_bytes_per_iteration
    assert actual / 2 <= predicted <= 2 * actual
    objectives = [step.objective for step in replicated.history]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(objectives))
    if name not in ("squared", "logistic"):
        return
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 50_000)
    whole = fit_exchange(spark, tmp_path, "replicate", 2, **settings)
    # A row that is not hot takes several Newton steps, a hot one takes one.
    tolerance = 2e-2 if name == "logistic" else 1e-5
    assert objectives[-1] == pytest.approx(whole.history[-1].objective, rel=tolerance)


def test_pieces_whose_machine_lost_the_copy_are_sent_again(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = frame(spark, observations())
    settings = {**LOSSES["logistic"], "n_blocks": 3, "iterations": 2}
    undisturbed = fit(spark, ratings, **settings)
    solve = LoopState.solve

    def lose_copies_first(self: LoopState, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> Any:
        assert rows.hot is not None
        if iteration == 1:
            remove_copies(rows.hot.copies)
        if iteration == 2:
            assert any((machine_folder() / rows.hot.copies).glob("block-*")), "the second job leaves copies again"
            remove_copies(rows.copies)
        return solve(self, iteration, rows, fixed)

    monkeypatch.setattr(LoopState, "solve", lose_copies_first)
    assert_same(undisturbed, fit(spark, ratings, **settings))


def test_routed_pieces_whose_machine_lost_the_copy_are_sent_there(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**LOSSES["logistic"], "iterations": 2}
    undisturbed = fit_exchange(spark, tmp_path, "route", 3, **settings)
    solve, evaluate = LoopState.solve, RouteExchange._evaluate

    def lose_copies_first(self: LoopState, iteration: int, rows: SideBlocks, fixed: SideBlocks) -> Any:
        assert rows.hot is not None
        remove_copies(rows.hot.copies)
        return solve(self, iteration, rows, fixed)

    def lose_copies_again(self: RouteExchange, rows: SideBlocks, fixed: SideBlocks, work: Any) -> Any:
        assert rows.hot is not None
        assert any((machine_folder() / rows.hot.copies).glob("block-*")), "what was sent stays as a copy"
        remove_copies(rows.hot.copies)
        return evaluate(self, rows, fixed, work)

    monkeypatch.setattr(LoopState, "solve", lose_copies_first)
    monkeypatch.setattr(RouteExchange, "_evaluate", lose_copies_again)
    assert_same(undisturbed, fit_exchange(spark, tmp_path, "route", 3, **settings))


def test_no_task_is_sent_all_vectors_for_an_item_that_every_user_rated(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_users, n_blocks, config = 400, 4, TrainConfig(rank=5, exchange="route", solver="cholesky")
    # Two ratings of each user: the item that all have rated, and one of many others.
    triples = [(u, i, float(1 + (u + i) % 5)) for u in range(n_users) for i in (0, 1 + u % 80)]
    needed = {}
    for floor in (9, 50_000):
        monkeypatch.setattr(hot_rows, "HOT_FLOOR", floor)
        exchange = RouteExchange(spark, config, 0.0, n_blocks, LocalStorage(), str(tmp_path / f"{floor}"))
        users, items = block_ratings(frame(spark, triples), n_users, 81, n_blocks)
        try:
            exchange.begin(users, items, None)
            exchange.solve(users, items)
            exchange.solve(items, users)
            blocks = spark.read.schema(FACTOR_BLOCK_SCHEMA).parquet(exchange.vectors[ITEMS])
            bytes_per_user = 4 * (1 + 6)
            needed[floor] = sorted(row["received_bytes"] // bytes_per_user for row in blocks.collect())
        finally:
            exchange.release()
            for side in (users, items):
                side.release()
    assert needed[50_000][-1] == n_users, "whole, the item needs every user in one task"
    assert 0 < needed[9][-1] <= 2 * n_users / n_blocks
