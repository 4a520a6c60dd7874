"""Nights with Spark that are hurt: drivers and workers killed, tasks done twice, no room on the disk."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
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
from recsys_spark.publish import stage as publish_stage
from recsys_spark.publish.verification import verify
from recsys_spark.published import read_current_table
from recsys_spark.recommend import lists
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import Run, StageContext, find_runs
from recsys_spark.storage import LocalStorage
from recsys_spark.storage.numbered_log import NumberedLog
from tests import troubled_workers
from tests.conftest import ROOT, python_path, small_config
from tests.dying_driver import MOMENTS
from tests.train.test_lost_executors import spark_home
from tests.unchecked_nights import context_of, publish_unchecked, with_output

STORAGE = LocalStorage()
# What a small query of a process of its own need not have.
PLAIN = ["--conf", "spark.sql.shuffle.partitions=2", "--conf", "spark.sql.adaptive.enabled=false"]
PLAIN += ["--conf", "spark.sql.codegen.wholeStage=false", "--conf", "spark.sql.codegen.factoryMode=NO_CODEGEN"]
FAST_JVM = "-XX:TieredStopAtLevel=1"


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


@pytest.mark.parametrize(("trouble", "told"), [("kill", "exited unexpectedly"), ("starve", "MemoryError")])
def test_a_worker_killed_or_out_of_memory_costs_an_attempt_and_nothing_else(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trouble: str,
    told: str,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(shop.folder / "two", out)
    run = run_of(out, "n2")
    # As it was when the lists were about to be made.
    for path in (run.manifest_path, run.stage_record("recommend")):
        STORAGE.remove(path)
    STORAGE.remove(f"{out}/publication_log/00000002.json")
    (tmp_path / trouble).touch()
    with monkeypatch.context() as patch:
        killed = partial(troubled_workers.killed_once, folder=str(tmp_path))
        patch.setattr(lists, "rank_users_with_pairs", killed)
        # One machine does not try tasks again.
        assert shop.night("n2", out) == 1
    assert (tmp_path / f"{trouble}.fired").exists()
    last = capsys.readouterr().err.rpartition("error: ")[2]
    assert last.startswith("memory has run out, or a worker was killed; readers keep what they have\n  got: ")
    assert told in last
    assert f", then go on with: recsys-spark pipeline --config {shop.folder / 'config.yaml'} " in last
    assert last.rstrip().endswith(" --run-id n2")
    assert seen(out) == shop.before
    assert shop.night("n2", out) == 0
    shop.require_as_undisturbed(out)


def test_an_owner_who_lost_the_run_while_the_gate_looked_does_not_publish(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(shop.folder / "two", out)
    run = run_of(out, "n2")
    STORAGE.remove(run.manifest_path)
    STORAGE.remove(f"{out}/publication_log/00000002.json")
    judge = publish_stage.judge

    def is_paused(context: StageContext) -> Any:
        held = NumberedLog(STORAGE, f"{run.path}/lease")
        held.append(held.numbers()[-1] + 1, {"owner": "another"})
        return judge(context)

    with monkeypatch.context() as patch:
        patch.setattr(publish_stage, "judge", is_paused)
        assert shop.night("n2", out) == 1
    assert "another process has taken over this run" in capsys.readouterr().err
    assert seen(out) == shop.before
    assert not STORAGE.exists(run.manifest_path)


@pytest.fixture(scope="module")
def killed(shop: Shop) -> Path:
    """Return an output path for drivers that are killed one after the other, each going on where the last has died."""
    shutil.copytree(shop.folder / "one", shop.folder / "killed")
    return shop.folder / "killed"


@pytest.mark.slow
@pytest.mark.parametrize("moment", list(MOMENTS))
def test_readers_are_none_the_worse_for_a_driver_killed(shop: Shop, killed: Path, moment: str) -> None:
    command = [sys.executable, "-m", "tests.dying_driver", moment]
    command += shop.command("n2", killed, "--set", "evaluate.holdout_share=0.2")
    submit = " ".join([*PLAIN, "--driver-java-options", FAST_JVM, "pyspark-shell"])
    environment = {**os.environ, "PYTHONPATH": python_path(), "PYSPARK_SUBMIT_ARGS": submit}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    stage = moment.partition(":")[0]
    assert f"{stage}: started" in done.stderr
    assert not STORAGE.exists(run_of(killed, "n2").stage_record(stage)), "it was killed inside"
    assert seen(killed) == (shop.after if moment == "publish: between log and record" else shop.before)


@pytest.mark.slow
def test_the_attempt_after_killed_drivers_gives_the_lists_of_a_night_undisturbed(shop: Shop, killed: Path) -> None:
    assert shop.night("n2", killed, "--set", "evaluate.holdout_share=0.2") == 0
    shop.require_as_undisturbed(killed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_attempts_and_nothing_else(
    shop: Shop, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, ballast = small_disk / "out", small_disk / "ballast"
    shutil.copytree(shop.folder / "one", out)
    reached: list[int] = []
    told: list[str] = []
    for room in range(0, 2_000_000, 150_000):
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(max(0, free - room)))
        if (code := shop.night("n2", out)) == 0:
            break
        assert code in (1, 2)
        # A report comes after publishing: without room for it, readers have the new lists already.
        is_published = publications(str(out), STORAGE)[-1].run_id == "n2"
        assert seen(out) == (shop.after if is_published else shop.before)
        told.append(capsys.readouterr().err)
        reached.append(told[-1].count(": done after"))
    assert "no room is left on a disk" in told[0]
    assert len(reached) >= 3, "it was full several times"
    assert sum(reached) >= 2, "and at several stages"
    shop.require_as_undisturbed(out)


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Start a cluster whose two workers take each other for other machines: only there, tasks are done twice."""
    home = spark_home(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, daemon = f"spark://127.0.0.1:{port}", [str(home / "bin" / "spark-class")]
    of_master = ["org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", port, "--webui-port", "0"]
    of_worker = ["org.apache.spark.deploy.worker.Worker", "--cores", "1", "--memory", "1g", "--webui-port", "0"]
    of_workers = [[*of_worker, "--host", host, address] for host in ("127.0.0.1", "127.0.0.2")]
    environment = {**os.environ, "SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "256m", "PYTHONPATH": python_path()}
    with (tmp_path / "cluster.log").open("w") as log:
        daemons = [
            subprocess.Popen([*daemon, *arguments], env=environment, cwd=tmp_path, stdout=log, stderr=log)
            for arguments in (of_master, *of_workers)
        ]
        yield home, address
        for process in reversed(daemons):
            process.terminate()
        for process in daemons:
            process.wait()


@pytest.mark.cluster
def test_tasks_done_twice_and_killed_workers_leave_the_same_lists(
    shop: Shop, two_hosts: tuple[Path, str], tmp_path: Path
) -> None:
    out, (home, address) = tmp_path / "out", two_hosts
    shutil.copytree(shop.folder / "one", out)
    for flag in ("kill", "hang"):
        (tmp_path / flag).touch()
    speculation = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.minTaskRuntime": "100ms",
        "spark.executor.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.executor.extraJavaOptions": FAST_JVM,
    }
    command = [str(home / "bin" / "spark-submit"), "--master", address, *PLAIN]
    command += [text for name, value in speculation.items() for text in ("--conf", f"{name}={value}")]
    command += ["--driver-java-options", FAST_JVM, str(ROOT / "tests" / "cluster_night.py"), str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"}
    environment |= {"SPARK_HOME": str(home), "PYTHONPATH": python_path()}
    done = subprocess.run(
        [*command, *shop.command("n2", out)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "kill.fired").exists(), "no worker was killed"
    assert (tmp_path / "hang.fired").exists(), "no task hung"
    assert list(tmp_path.glob("partition-*.copied")), "nobody did the work of the task that hung"
    shop.require_as_undisturbed(out)
