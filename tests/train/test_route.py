"""The ``route`` exchange: the same factors as ``replicate``, without ever bringing a side together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError
from recsys_spark.machine_folder import machine_folder
from recsys_spark.progress import Progress
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
    model = fit_factors(spark, ratings, config, progress=Progress(), continuation=continuation, **sizes)
    assert not model.user_vectors.size or exchange == "replicate", "nothing comes to the driver"
    return model.collected()


def timeless(model: Factorization) -> list[Any]:
    return [replace(step, seconds=0) for step in model.history]


def assert_equal_bits(one: Factorization, other: Factorization) -> None:
    np.testing.assert_array_equal(one.user_vectors, other.user_vectors)
    np.testing.assert_array_equal(one.item_vectors, other.item_vectors)
    assert timeless(one) == timeless(other)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("squared", "dual"),
        pytest.param("unobserved", "auto", marks=pytest.mark.slow),
        ("implicit", "subspace"),
        pytest.param("ials", "cg", marks=pytest.mark.slow),
        ("logistic", "gradient"),
        ("nonnegative", "auto"),
    ],
)
def test_both_exchanges_give_equal_bits(spark: SparkSession, tmp_path: Path, name: str, solver: str) -> None:
    settings = {**LOSSES[name], "solver": solver, "iterations": 2}
    replicated = fit(spark, tmp_path, "replicate", 2, **settings)
    assert_equal_bits(fit(spark, tmp_path, "route", 3, **settings), replicated)


def test_early_stopping_keeps_the_same_iteration(spark: SparkSession, tmp_path: Path) -> None:
    settings = {"validation_share": 0.3, "patience": 2, "iterations": 12, "reg_param": 0.01, "solver": "cg"}
    replicated, routed = (fit(spark, tmp_path, exchange, 2, **settings) for exchange in ("replicate", "route"))
    assert_equal_bits(routed, replicated)
    losses = [step.validation for step in replicated.history if step.validation is not None]
    assert 2 < len(losses) < 12, "it stopped early"
    assert int(np.argmin(losses)) == len(losses) - 3


def test_one_block_needs_no_other(spark: SparkSession, tmp_path: Path) -> None:
    routed = fit(spark, tmp_path, "route", 1, iterations=1)
    assert_equal_bits(routed, fit(spark, tmp_path, "replicate", 1, iterations=1))
    for degrees, vectors in ((routed.user_degrees, routed.user_vectors), (routed.item_degrees, routed.item_vectors)):
        assert (vectors.any(axis=1) == (degrees > 0)).all()


def test_only_the_present_vectors_stay_on_storage(spark: SparkSession, tmp_path: Path) -> None:
    fit(spark, tmp_path, "route", 2)
    folders = sorted(path.name.split("-")[0] for path in (tmp_path / "routed-2").iterdir())
    assert folders == ["items", "users"]


def test_routed_vectors_need_a_place(spark: SparkSession) -> None:
    config = TrainConfig(exchange="route")
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    with pytest.raises(ConfigError, match="route needs a place for its vectors"):
        fit_factors(spark, weighted_frame(spark, observations()), config, progress=Progress(), **sizes)


def test_blocks_whose_machine_lost_the_copy_are_sent_there(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(spark, tmp_path, "route", 3)
    solve = LoopState.solve

    def lose_copies_first(self: LoopState, iteration: int, rows: Any, fixed: Any) -> Any:
        if iteration == 2:
            remove_copies(rows.copies)
        if iteration == 3:
            victim = machine_folder() / rows.copies / "block-1" / "values.npy"
            assert victim.exists(), "what was sent stays as a copy"
            victim.write_bytes(b"damaged")
        return solve(self, iteration, rows, fixed)

    monkeypatch.setattr(LoopState, "solve", lose_copies_first)
    assert_equal_bits(fit(spark, tmp_path, "route", 3), undisturbed)
