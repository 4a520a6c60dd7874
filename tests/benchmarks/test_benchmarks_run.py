"""Benchmarks run to their end at the smallest sizes, and tell what they promise; how fast is not asked here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT, python_path

TINY = ["--ratings", "4e4", "--rank", "4", "--iterations", "2", "--rounds", "1"]


def result_of(name: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    environment = {**os.environ, "PYTHONPATH": python_path(), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("RESULT ")
    found: dict[str, Any] = json.loads(last.removeprefix("RESULT "))
    return found


@pytest.mark.slow
def test_training_beside_mllib() -> None:
    found = result_of("training.py", *TINY, "--final-iterations", "8", "--our-times", "2")
    assert {"ours_s_per_iter", "mllib_s_per_iter", "ratio", "blocking_ratio"} <= found.keys()
    assert found["objective_difference"] == pytest.approx(0.0, abs=0.05)


@pytest.mark.slow
def test_training_beside_the_implicit_library() -> None:
    pytest.importorskip("implicit", reason="the implicit library is not installed")
    options = ["--loss", "implicit", "--against", "implicit", "--solver", "cg", "--final-iterations", "5"]
    found = result_of("training.py", *TINY, *options)
    assert {"ours_s_per_iter", "implicit_s_per_iter", "ratio"} <= found.keys()
    assert found["objective_difference"] == pytest.approx(0.0, abs=0.05)


@pytest.mark.slow
def test_one_iteration_beside_the_bound_of_the_machine() -> None:
    assert result_of("roofline.py", *TINY)["ratio_to_bound"] > 1


@pytest.mark.slow
def test_routed_training_beside_nothing() -> None:
    """What the benchmark of sizes, cores and exchanges runs several times."""
    found = result_of("training.py", *TINY, "--against", "nothing", "--exchange", "route", "--final-iterations", "0")
    assert found["ours_s_per_iter"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["replicate", "route"])
def test_an_item_that_everybody_rated(exchange: str) -> None:
    options = ["--ratings", "2e4", "--rank", "4", "--blocks", "4", "--floor", "1000", "--iterations", "2"]
    assert result_of("hot_rows.py", *options, "--exchange", exchange)["items_split"] == 1


@pytest.mark.slow
def test_held_out_pairs_stay_on_the_executors() -> None:
    """The benchmark itself compares RMSE and AUC with those of all pairs at once."""
    found = result_of("held_out_pairs.py", "--pairs", "2e4", "--users", "1000", "--items", "500", "--replicates", "5")
    assert found["received_rows"] < 500
    assert found["estimates"] > 100


@pytest.mark.slow
def test_lists_beside_their_product() -> None:
    sizes = ["--users", "300", "--items", "200", "--rank", "8", "--kernel-users", "64"]
    found = result_of("top_n.py", *sizes, "--rounds", "1")
    assert found["gemm_ratio"] > 1
