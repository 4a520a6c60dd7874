"""The ``route`` exchange: the same factors as ``replicate``, without ever bringing a side together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Factorization, fit_factors
from recsys_spark.train.alternating import Continuation
from recsys_spark.train.local_copies import remove_copies
from recsys_spark.train.loop_state import LoopState
from tests.train.test_fit_factors import LOSSES, N_ITEMS, N_USERS, observations, weighted_frame


def fit(spark: SparkSession, folder: Path, exchange: str, n_blocks: int, **settings: Any) -> Factorization:
    config = TrainConfig(
        **{"rank": 5, "iterations": 3, "tolerance": 0.0, "n_blocks": n_blocks, "exchange": exchange, **settings}
    )
    continuation = Continuation(storage=LocalStorage(), folder=str(folder / f"routed-{n_blocks}"))
    ratings = weighted_frame(spark, observations(), n_blocks)
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    return fit_factors(spark, ratings, config, progress=Progress(), continuation=continuation, **sizes)


@pytest.mark.parametrize(("name", "solver"), [("squared", "dual"), ("ials", "cg"), ("logistic", "auto")])
def test_both_exchanges_give_equal_bits(spark: SparkSession, tmp_path: Path, name: str, solver: str) -> None:
    settings = {**LOSSES[name], "solver": solver, "iterations": 2}
    replicated = fit(spark, tmp_path, "replicate", 2, **settings)
    for n_blocks in (1, 3):
        routed = fit(spark, tmp_path, "route", n_blocks, **settings)
        np.testing.assert_array_equal(routed.user_vectors, replicated.user_vectors)
        np.testing.assert_array_equal(routed.item_vectors, replicated.item_vectors)
        timeless = [[replace(step, seconds=0) for step in model.history] for model in (routed, replicated)]
        assert timeless[0] == timeless[1]


def test_routed_vectors_are_rows_without_coming_to_the_driver(spark: SparkSession, tmp_path: Path) -> None:
    routed = fit(spark, tmp_path, "route", 3)
    for side, vectors, degrees in (
        (USERS, routed.user_vectors, routed.user_degrees),
        (ITEMS, routed.item_vectors, routed.item_degrees),
    ):
        rows = {row[side.rows]: row for row in routed.rows(spark, side).collect()}
        assert sorted(rows) == np.flatnonzero(degrees).tolist()
        for index, row in rows.items():
            assert [*row["factors"], row["bias"]] == vectors[index].tolist()
            assert row["n_ratings"] == degrees[index]


def test_blocks_whose_machine_lost_the_copy_are_brought_back(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(spark, tmp_path, "route", 3)
    solve = LoopState.solve

    def lose_copies_first(self: LoopState, iteration: int, rows: Any, fixed: Any) -> Any:
        if iteration == 2:
            remove_copies(rows.copies)
        return solve(self, iteration, rows, fixed)

    monkeypatch.setattr(LoopState, "solve", lose_copies_first)
    disturbed = fit(spark, tmp_path, "route", 3)
    np.testing.assert_array_equal(undisturbed.user_vectors, disturbed.user_vectors)
