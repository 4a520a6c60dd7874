"""Nights with Spark that are hurt: a worker is killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.config import PipelineConfig
from recsys_spark.publish.verification import verify
from recsys_spark.published import read_current_table
from recsys_spark.recommend import lists
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.storage import LocalStorage
from tests import troubled_workers
from tests.conftest import small_config
from tests.unchecked_nights import context_of, publish_unchecked, with_output

STORAGE = LocalStorage()


class Shop:
    """An output path with one night, ``n1``, and another in which the next, ``n2``, went undisturbed.

    Attributes
    ----------
    before, after : list of str
        What readers see then.
    """

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.folder = folder
        sections: dict[str, Any] = {
            "train": {"rank": 3, "iterations": 2, "checkpoint_interval": 1, "tolerance": 0.0},
            "evaluate": {"holdout_share": 0.0},
            "output": {"check_room": False},
        }
        content = small_config(folder, sections)
        (folder / "config.yaml").write_text(yaml.safe_dump(content))
        config = PipelineConfig.model_validate(content)
        self._write_ratings(250)
        publish_unchecked(context_of(spark, with_output(config, folder / "one"), "n1"))
        self._write_ratings(400)
        shutil.copytree(folder / "one", folder / "two")
        publish_unchecked(context_of(spark, with_output(config, folder / "two"), "n2"))
        self.before, self.after = seen(folder / "one"), seen(folder / "two")
        assert self.before != self.after

    def _write_ratings(self, n: int) -> None:
        rng = np.random.default_rng(0)
        pairs = dict.fromkeys((int(u), int(i)) for u, i in rng.integers(0, [30, 25], (n, 2)))
        lines = [f"u{u},i{i},{1 + (3 * u + i) % 5}" for u, i in pairs]
        (self.folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines) + "\n")

    def command(self, run_id: str, out: Path, *options: str) -> list[str]:
        """Return the arguments of a night."""
        given = ["--run-id", run_id, "--set", f"output.path={out}", *options]
        return ["pipeline", "--config", str(self.folder / "config.yaml"), *given]

    def night(self, run_id: str, out: Path, *options: str) -> int:
        """Do a night in the tests' session."""
        return main(self.command(run_id, out, *options))

    def require_as_undisturbed(self, out: Path) -> None:
        """See that nobody can tell from an output path what happened in the second night."""
        assert seen(out) == self.after
        assert verify(str(out), STORAGE)[1] == []
        assert [entry.run_id for entry in publications(str(out), STORAGE)] == ["n1", "n2"]
        run = run_of(out, "n2")
        assert not [entry.name for entry in Path(run.path).iterdir() if entry.name.startswith("_")], (
            "an attempt's files are left"
        )
        n_rows = {place: read_current_table(str(place), "ratings").num_rows for place in (out, self.folder / "two")}
        assert len(set(n_rows.values())) == 1


def seen(out: Path) -> list[str]:
    """Return what readers see."""
    table = read_current_table(str(out), columns=["user_id", "recommendations"])
    return sorted(map(repr, table.to_pylist()))


def run_of(out: Path, run_id: str) -> Run:
    (run,) = (run for run in find_runs(str(out), STORAGE) if run.run_id == run_id)
    return run


@pytest.fixture(scope="module")
def one_session(spark: SparkSession) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "build_session", lambda app_name: spark)
        yield


@pytest.fixture(scope="module")
def shop(spark: SparkSession, one_session: None, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(spark, tmp_path_factory.mktemp("shop"))


def test_a_killed_python_worker_costs_an_attempt_and_nothing_else(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(shop.folder / "two", out)
    run = run_of(out, "n2")
    # As it was when the lists were about to be made.
    for path in (run.manifest_path, run.stage_record("recommend")):
        STORAGE.remove(path)
    STORAGE.remove(f"{out}/publication_log/00000002.json")
    (tmp_path / "kill").touch()
    with monkeypatch.context() as patch:
        killed = partial(troubled_workers.killed_once, folder=str(tmp_path))
        patch.setattr(lists, "rank_users_with_pairs", killed)
        # One machine does not try tasks again.
        assert shop.night("n2", out) == 1
    assert (tmp_path / "kill.fired").exists()
    assert "crashed" in capsys.readouterr().err
    assert seen(out) == shop.before
    assert shop.night("n2", out) == 0
    shop.require_as_undisturbed(out)
