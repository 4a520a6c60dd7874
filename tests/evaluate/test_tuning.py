"""The search for settings, on a small log."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark.cli import main
from recsys_spark.commands import tune as tune_command
from recsys_spark.config.file import load_config
from recsys_spark.evaluate import tuning
from recsys_spark.evaluate.splits import split_by
from recsys_spark.evaluate.tuning import search
from recsys_spark.pipeline import run_stages, stages
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.train import SeveralFits, fit_factors, training_ratings
from tests.evaluate.test_stage import write_log

MakeContext = Callable[..., StageContext]
SPACE = {"rank": [1, 3], "reg_param": [0.3, 30.0], "unobserved_weight": [0.1]}


def tuned_context(make_context: MakeContext, folder: Path, **tune: Any) -> StageContext:
    write_log(folder)
    context = make_context(
        input={"path": str(folder / "ratings.csv"), "columns": {"timestamp": "time"}},
        train={"rank": 2, "iterations": 4},
        evaluate={"n": 3, "relevant_rating": 4, "holdout_share": 0.2},
        tune={"space": SPACE, "at_once": 3, "first_iterations": 2, **tune},
    )
    run_stages(context, stages(("ingest", "index")))
    return context


def brute_ndcg(context: StageContext, number: int) -> float:
    """Return the score of a trial: fitted by itself, and every pair scored and sorted."""
    with tuning.judged_ratings(context) as judged:
        trial = next(t for t in tuning.make_trials(context.config.train, context.config.tune)[0] if t.number == number)
        sizes = context.record("index")
        config = trial.config.model_copy(update={"iterations": 4})
        sized = {"n_users": sizes["n_users"], "n_items": sizes["n_items"]}
        model = fit_factors(context.spark, judged.training, config, progress=Progress(), **sized)
        known = {(r["user_index"], r["item_index"]) for r in judged.training.collect()}
        rows = judged.rows.collect()
    scores = model.user_vectors[:, :-1].astype(float) @ model.item_vectors[:, :-1].astype(float).T
    scores += model.user_vectors[:, -1:].astype(float) + model.item_vectors[:, -1].astype(float)
    found = []
    for row in rows:
        user = row["user_index"]
        items = [i for i in range(sizes["n_items"]) if model.item_degrees[i] and (user, i) not in known]
        best = sorted(items, key=lambda i: (-np.float32(scores[user, i]), i))[:3]
        gains = sum(1 / math.log2(place + 2) for place, i in enumerate(best) if i in row["relevant"])
        found.append(gains / sum(1 / math.log2(p + 2) for p in range(min(3, len(row["relevant"])))))
    return float(np.mean(found))


def test_a_search_scores_every_setting_and_goes_on_where_it_was_cut_off(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tuned_context(make_context, tmp_path, method="grid")
    found = search(context)
    (rung,) = found.rungs
    assert rung["iterations"] == 4
    assert len(rung["scores"]) == 4
    assert found.score == max(rung["scores"].values())
    assert rung["scores"][found.best.number] == found.score
    assert found.score == pytest.approx(brute_ndcg(context, found.best.number), rel=1e-9)

    written = sorted(Path(context.run.path, "tuning").glob("*.json"))
    assert len(written) == 4
    written[1].unlink()
    again = search(context)
    assert (again.rungs, again.best, again.n_reused) == (found.rungs, found.best, 3)

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a setting was fitted again")

    monkeypatch.setattr(tuning, "SeveralFits", refuse)
    assert search(context).n_reused == 4


def test_halving_ends_with_the_best_of_those_that_went_on(make_context: MakeContext, tmp_path: Path) -> None:
    context = tuned_context(make_context, tmp_path, method="halving", keep_share=0.5, trials=4, metric="hit_rate")
    found = search(context)
    assert [rung["iterations"] for rung in found.rungs] == [2, 4]
    first, last = (rung["scores"] for rung in found.rungs)
    assert sorted(last) == sorted(sorted(first, key=lambda number: (-first[number], number))[:2])
    alone = search(
        tuned_context(lambda **s: make_context(run_id="r2", **s), tmp_path, method="grid", metric="hit_rate")
    )
    assert {number: alone.rungs[0]["scores"][number] for number in last} == last, (
        "going on is as good as beginning anew"
    )


def test_ratings_held_out_for_evaluation_have_no_part_in_a_search(make_context: MakeContext, tmp_path: Path) -> None:
    context = tuned_context(make_context, tmp_path, metric="rmse")
    split = split_by(training_ratings(context), context.config.evaluate).frame.collect()
    held_out = {(r["user_index"], r["item_index"]) for r in split if r["part"] == "held_out"}
    assert held_out
    with tuning.judged_ratings(context) as judged:
        training = {(r["user_index"], r["item_index"]) for r in judged.training.collect()}
        scored = {(r["user_index"], r["item_index"]) for r in judged.rows.collect()}
    assert not held_out & (training | scored)
    assert not training & scored
    assert len(training | scored | held_out) == len(split)


def test_fits_side_by_side_are_those_of_each_alone(make_context: MakeContext, tmp_path: Path) -> None:
    context = tuned_context(make_context, tmp_path)
    ratings, sizes = training_ratings(context), context.record("index")
    sized = {"n_users": sizes["n_users"], "n_items": sizes["n_items"]}
    configs = [
        context.config.train.model_copy(
            update={"rank": rank, "reg_param": reg, "n_blocks": 2, "tolerance": 0.0, "solver": solver}
        )
        for rank, reg, solver in ((2, 0.5, "cholesky"), (4, 3.0, "auto"))
    ]
    fits = SeveralFits(context.spark, ratings, configs[0], n_blocks=2, **sized)
    for number, config in enumerate(configs):
        fits.begin(number, config)
    fits.advance([0, 1], 2)
    fits.advance([1], 4)
    for number, (config, iterations) in enumerate(zip(configs, (2, 4), strict=True)):
        alone = fit_factors(
            context.spark, ratings, config.model_copy(update={"iterations": iterations}), progress=Progress(), **sized
        )
        model = fits.model(number)
        np.testing.assert_array_equal(model.user_vectors, alone.user_vectors)
        np.testing.assert_array_equal(model.item_vectors, alone.item_vectors)
        assert [step.objective for step in model.history] == [step.objective for step in alone.history]
    fits.release()


def test_the_command_writes_the_best_settings_as_a_configuration(
    spark: SparkSession, make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    context = tuned_context(make_context, tmp_path, method="random", trials=2, metric="rmse")
    content = json.loads(context.config.model_dump_json())
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(tune_command, "build_session", lambda app_name: spark)
    target = tmp_path / "best.yaml"
    command = ["tune", "--config", str(config), "--run-id", "r1", "--output", str(target)]
    assert main(command) == 2, "scores of a fit with unobserved_weight are no ratings"
    assert "scores of these settings are no ratings" in capsys.readouterr().err
    assert main([*command, "--set", "tune.space.unobserved_weight=null"]) == 0
    printed = capsys.readouterr().out
    assert "2 settings, 2 fits (0 known from before)" in printed
    best = load_config(target)
    tried = [line.replace("│", " ").split()[:2] for line in printed.splitlines() if line.strip()[:1] in ("1", "3")]
    assert tried[0] == [str(best.train.rank), str(best.train.reg_param)]
    assert best.model_dump(exclude={"train", "tune"}) == context.config.model_dump(exclude={"train", "tune"})
    assert main(["tune", "--config", str(config)]) == 2
