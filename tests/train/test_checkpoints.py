"""Training that is cut off and goes on, that starts from a model, and that stops early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.config import TrainConfig
from recsys_spark.config.file import load_config
from recsys_spark.errors import ConfigError
from recsys_spark.kernels import hot_rows
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import find_runs
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import ITEM_FACTORS, USER_FACTORS
from recsys_spark.train import Factorization, fit_factors
from recsys_spark.train.alternating import Continuation
from recsys_spark.train.checkpoints import Checkpoints
from recsys_spark.train.loop_state import LoopState
from tests.conftest import ROOT
from tests.train.test_fit_factors import N_ITEMS, N_USERS, frame, observations

WriteConfig = Callable[..., str]


class Crash(Exception):
    """Stands for a machine that goes away."""


def fit(spark: SparkSession, ratings: DataFrame, continuation: Continuation, **settings: Any) -> Factorization:
    config = TrainConfig(**{"rank": 3, "iterations": 7, "tolerance": 0.0, "n_blocks": 2, "solver": "cg", **settings})
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    model = fit_factors(spark, ratings, config, progress=Progress(), continuation=continuation, **sizes)
    return model.collected()


@pytest.fixture
def crash_in_iteration(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Return a function that makes training crash between the two halves of an iteration, if it has any, or no more.

    What it returns fills with the iterations of the half-iterations that are solved.
    """
    solve, step_both = LoopState.solve, LoopState.step_both

    def arm(crash: int | None) -> list[int]:
        solved: list[int] = []

        def solve_or_crash(self: LoopState, iteration: int, rows: Any, fixed: Any) -> Any:
            if iteration == crash and rows.side.name == "items":
                raise Crash
            solved.append(iteration)
            return solve(self, iteration, rows, fixed)

        def step_or_crash(self: LoopState, iteration: int, users: Any, items: Any) -> Any:
            if iteration == crash:
                raise Crash
            solved.append(iteration)
            return step_both(self, iteration, users, items)

        monkeypatch.setattr(LoopState, "solve", solve_or_crash)
        monkeypatch.setattr(LoopState, "step_both", step_or_crash)
        return solved

    return arm


JUDGED = {"validation_share": 0.2, "patience": 100}
SIMULTANEOUS = {"updates": "simultaneous", "solver": "gradient"}


@pytest.mark.parametrize(
    ("settings", "hot_floor"),
    [
        ({}, 50_000),
        (JUDGED, 9),
        pytest.param({**JUDGED, "exchange": "route"}, 9, marks=pytest.mark.slow),
        pytest.param({**JUDGED, **SIMULTANEOUS}, 50_000, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_training_is_the_undisturbed_one(
    spark: SparkSession,
    tmp_path: Path,
    crash_in_iteration: Callable[[int | None], list[int]],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    hot_floor: int,
) -> None:
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", hot_floor)
    ratings = frame(spark, observations())
    undisturbed = fit(spark, ratings, Continuation(), **{**settings, "exchange": "replicate"})
    checkpoints = Checkpoints(LocalStorage(), str(tmp_path / "checkpoints"), 2)
    anew = Continuation(checkpoints, "code", storage=LocalStorage(), folder=str(tmp_path / "vectors"))
    for crash in (4, 7):
        crash_in_iteration(crash)
        with pytest.raises(Crash):
            fit(spark, ratings, anew, **settings)
        assert checkpoints.latest() == str(tmp_path / "checkpoints" / f"iteration=00000{(crash - 1) // 2 * 2}")
    solved = crash_in_iteration(None)
    resumed = fit(spark, ratings, replace(anew, must_resume=True), **settings)
    assert set(solved) == {7}, "only the iteration after the checkpoint is computed again"
    for name in ("user_vectors", "item_vectors"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(undisturbed, name))
    timeless = [[replace(step, seconds=0) for step in model.history] for model in (resumed, undisturbed)]
    assert timeless[0] == timeless[1]


def test_a_checkpoint_is_good_for_either_exchange_and_any_number_of_blocks(
    spark: SparkSession,
    tmp_path: Path,
    crash_in_iteration: Callable[[int | None], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Hot rows are in records of their own.
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 9)
    ratings = frame(spark, observations())
    undisturbed = fit(spark, ratings, Continuation(), iterations=3)
    checkpoints = Checkpoints(LocalStorage(), str(tmp_path / "checkpoints"), 1)
    anew = Continuation(checkpoints, "code", storage=LocalStorage(), folder=str(tmp_path / "vectors"))
    for crash, exchange, n_blocks in ((2, "route", 2), (3, "route", 3), (None, "replicate", 2)):
        solved = crash_in_iteration(crash)
        if crash is not None:
            with pytest.raises(Crash):
                fit(spark, ratings, anew, iterations=3, exchange=exchange, n_blocks=n_blocks)
        else:
            resumed = fit(spark, ratings, anew, iterations=3, exchange=exchange, n_blocks=n_blocks)
        assert solved == {2: [1, 1, 2], 3: [2, 2, 3], None: [3, 3]}[crash]
    for name in ("user_vectors", "item_vectors"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(undisturbed, name))


def test_routed_vectors_that_are_gone_are_no_checkpoint(spark: SparkSession, tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalStorage(), str(tmp_path / "checkpoints"), 1)
    place = tmp_path / "checkpoints" / "iteration=000001"
    place.mkdir(parents=True)
    saved = {"vectors": {"users": str(tmp_path / "u"), "items": str(tmp_path / "i")}}
    (place / "checkpoint.json").write_text(json.dumps({"saved": saved}))
    assert checkpoints.latest() is None
    for name in ("u", "i"):
        (tmp_path / name).mkdir()
    assert checkpoints.latest() == str(place)
    assert checkpoints.folders() == [str(tmp_path / "u"), str(tmp_path / "i")]


def test_a_checkpoint_of_something_else_is_not_used_and_said_to_be_so(
    spark: SparkSession, tmp_path: Path, crash_in_iteration: Callable[[int | None], list[int]], caplog: Any
) -> None:
    ratings = frame(spark, observations())
    checkpoints = Checkpoints(LocalStorage(), str(tmp_path / "checkpoints"), 1)
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        fit(spark, ratings, Continuation(checkpoints, "code", must_resume=True))
    crash_in_iteration(3)
    with pytest.raises(Crash):
        fit(spark, ratings, Continuation(checkpoints, "code"))
    crash_in_iteration(None)
    other_data = frame(spark, [*observations()[:-1], (*observations()[-1][:2], 0.5)])
    changes: list[tuple[DataFrame, str, dict[str, Any], str]] = [
        (other_data, "code", {}, "other data"),
        (ratings, "code", {"reg_param": 1.0}, "other config"),
        (ratings, "newer", {}, "other code"),
    ]
    for data, code, settings, expected in changes:
        with pytest.raises(ConfigError, match=f"the checkpoint cannot be used: {expected}"):
            fit(spark, data, Continuation(checkpoints, code, must_resume=True), **settings)
    known = fit(spark, ratings, Continuation(), iterations=1).both_sides(spark)
    with pytest.raises(ConfigError, match="other start"):
        fit(spark, ratings, Continuation(checkpoints, "code", must_resume=True, known=known))
    expected_model = fit(spark, ratings, Continuation(), reg_param=1.0)
    anew = fit(spark, ratings, Continuation(checkpoints, "code"), reg_param=1.0)
    np.testing.assert_array_equal(anew.item_vectors, expected_model.item_vectors)


def test_a_known_model_saves_iterations_with_either_exchange(spark: SparkSession, tmp_path: Path) -> None:
    triples = observations(n=400)
    settings = {"iterations": 60, "tolerance": 1e-4, "solver": "cholesky"}
    before = fit(spark, frame(spark, triples[:-20]), Continuation(), **settings)
    cold = fit(spark, frame(spark, triples), Continuation(), **settings)
    warm = fit(spark, frame(spark, triples), Continuation(known=before.both_sides(spark)), **settings)
    routed = Continuation(known=before.both_sides(spark), storage=LocalStorage(), folder=str(tmp_path))
    same = fit(spark, frame(spark, triples), routed, **{**settings, "exchange": "route", "iterations": 1})
    assert [step.objective for step in same.history] == [step.objective for step in warm.history[:2]]
    nobody = Continuation(known={side: rows.limit(0) for side, rows in before.both_sides(spark).items()})
    first = fit(spark, frame(spark, triples), nobody, **{**settings, "iterations": 1})
    assert [step.objective for step in first.history] == [step.objective for step in cold.history[:2]]
    goal = cold.history[-1].objective * 1.001
    needed = [next(step.iteration for step in model.history if step.objective <= goal) for model in (cold, warm)]
    assert needed[1] < needed[0], needed


def test_training_stops_before_it_overfits(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    noise = [(u, i, float(np.float32(rng.normal()))) for u, i, _ in observations(n=400)]
    # Gradient steps fit the noise little by little; exact solutions do it at once.
    settings = {"rank": 12, "reg_param": 0.01, "bias_reg_param": 0.01, "solver": "gradient", "gradient_steps": 1}
    settings |= {"iterations": 50, "validation_share": 0.3, "patience": 3}
    model = fit(spark, frame(spark, noise), Continuation(), **settings)
    losses = [step.validation for step in model.history if step.validation is not None]
    assert len(model.history) < 100, "it stopped early"
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    shorter = {**settings, "iterations": best + 1}
    expected = fit(spark, frame(spark, noise), Continuation(), **shorter)
    np.testing.assert_array_equal(model.item_vectors, expected.item_vectors)


def factors_of(spark: SparkSession, root: Path, run_id: str) -> list[Any]:
    (run,) = [run for run in find_runs(str(root), LocalStorage()) if run.run_id == run_id]
    tables = [table.read(spark, run.table_path(table)) for table in (USER_FACTORS, ITEM_FACTORS)]
    return [sorted(map(tuple, frame_of.drop("n_ratings").collect())) for frame_of in tables]


@pytest.mark.slow
def test_a_killed_driver_leaves_a_run_that_goes_on_bit_for_bit(
    spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    lines = [f"u{u},i{i},{value}" for u, i, value in observations()]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines))
    settings = {"rank": 3, "iterations": 40, "tolerance": 0.0, "solver": "cg", "checkpoint_interval": 2}
    config = write_config(train=settings)
    for run_id in ("killed", "undisturbed"):
        for stage in ("ingest", "index"):
            assert main([stage, "--config", config, "--run-id", run_id]) == 0
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", config, "--run-id", "killed"]
    job = subprocess.Popen(
        [*command, "--log-format", "json"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("{") and json.loads(line).get("step", 0) >= 9:
            os.killpg(job.pid, signal.SIGKILL)
            break
    job.wait()
    job.stderr.close()
    assert job.returncode == -signal.SIGKILL

    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, message, **fields: said.append(message))
    assert main(["train", "--config", config, "--run-id", "killed", "--resume"]) == 0
    (resumed,) = [message for message in said if "goes on after iteration" in message]
    assert int(resumed.split("iteration ")[1].split(",")[0]) >= 4
    assert main(["train", "--config", config, "--run-id", "undisturbed"]) == 0
    root = Path(load_config(config).output.path)
    assert factors_of(spark, root, "killed") == factors_of(spark, root, "undisturbed")
    assert not list(root.rglob("_checkpoints")), "nothing is left of them when training is over"


def test_a_run_starts_from_the_published_model_where_it_fits(
    spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    said: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, message, **fields: said.append(message))
    triples = observations()

    def write(part: list[tuple[int, int, float]]) -> None:
        lines = [f"u{u},i{i},{value}" for u, i, value in part]
        (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines))

    def command(name: str, run_id: str, *overrides: str) -> list[str]:
        settings = [part for override in overrides for part in ("--set", override)]
        warm = ["--set", "train.warm_start=true"]
        return [name, "--config", config, "--run-id", run_id, *warm, "--set", "evaluate.holdout_share=0.0", *settings]

    config = write_config(train={"rank": 3, "iterations": 4})
    write([t for t in triples if t[0] != 5])
    assert main(command("pipeline", "first")) == 0
    assert any("nothing was published yet" in message for message in said)
    write(triples)
    assert main(command("pipeline", "second")) == 0
    (started,) = [message for message in said if "started from run first" in message]
    users, items = (len({t[side] for t in triples}) for side in (0, 1))
    assert f"{users - 1} users and {items} items are known" in started
    for stage in ("ingest", "index", "train"):
        assert main(command(stage, "third", "train.rank=4")) == 0
    assert any("not started from run second: rank 3 is now 4" in message for message in said)
