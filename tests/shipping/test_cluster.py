"""The zip on a real cluster of the compose file's processes, whose executor and worker die while it trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark import cli
from shipping.package import build_wheel, zip_of
from tests.conftest import ROOT, small_config
from tests.docker.compose_processes import QUICK_START, SPARK_HOME, Cluster, die_with_parent, running_cluster, wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("data")) as running:
        yield running


def write_ratings(path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, [60, 40], (900, 2))})
    lines = [f"u{user},i{item},{rng.integers(1, 6)}" for user, item in pairs]
    path.write_text("user_id,item_id,rating\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("job")
    write_ratings(folder / "ratings.csv")
    config = small_config(folder, {"train": {"rank": 4, "iterations": 4, "tolerance": 0.0, "n_blocks": 2}})
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return ["--config", str(folder / "config.yaml"), "--run-id", "shipped", "--log-format", "json"]


@pytest.fixture(scope="module")
def shipped(cluster: Cluster, arguments: list[str]) -> Path:
    """Train from the zip on a cluster that loses an executor, and then a worker; return the output's folder."""
    folder = Path(arguments[1]).parent
    log = folder / "job.log"
    job = submit(cluster, zip_of(build_wheel(folder / "dist")), arguments, log)

    def wait_for_step(step: int) -> None:
        wait_for(lambda: steps_of(log) >= step or job.poll() is not None, 300, log.read_text)
        assert job.poll() is None, log.read_text()

    try:
        wait_for_step(2)
        (executor, *_) = wait_for(lambda: cluster.executors_of("worker-1"), 60, lambda: cluster.log("worker-1"))
        os.kill(executor, signal.SIGKILL)
        wait_for_step(3)
        cluster.kill_machine("worker-2")
        assert steps_of(log) < 7, "the training was over before the worker died"
        assert job.wait(timeout=400) == 0, log.read_text()
    finally:
        job.kill()
        job.wait()
    return folder / "out"


def submit(cluster: Cluster, archive: Path, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    settings = {
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.cores.max": "2",
        "spark.driver.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": QUICK_START,
        "spark.executor.extraJavaOptions": QUICK_START,
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{cluster.folder}/events",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        # Temporary files of each executor's own, as on machines of their own: it has no copies of the other's blocks.
        "spark.executorEnv.TMPDIR": ".",
    }
    options = [text for name, value in settings.items() for text in ("--conf", f"{name}={value}")]
    left_out = ("PYSPARK_SUBMIT_ARGS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"SPARK_HOME": str(SPARK_HOME), "PYSPARK_PYTHON": sys.executable}
    command = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", cluster.master, *options]
    command += ["--py-files", str(archive), str(ROOT / "tests" / "shipping" / "stages_from_zip.py"), *arguments]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=output, stderr=output, preexec_fn=die_with_parent
        )


def steps_of(log: Path) -> int:
    """Return how many half-iterations of training a job has told."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{") and '"step"' in line]
    return max((json.loads(line)["step"] for line in lines), default=0)


def factors(output: Path) -> dict[str, list[dict[str, object]]]:
    (run,) = (output / "runs").glob("date=*/run=shipped")
    tables = {name: ds.dataset(run / name).to_table() for name in ("user_factors", "item_factors")}
    return {name: sorted(table.to_pylist(), key=str) for name, table in tables.items()}


def test_the_master_and_the_history_server_tell_what_has_happened(cluster: Cluster, shipped: Path) -> None:
    def states() -> list[str]:
        return sorted(worker["state"] for worker in cluster.answer("http://master:8080/json/")["workers"])

    wait_for(lambda: states() == ["ALIVE", "DEAD"], 60, lambda: str(states()))

    applications = "http://history:18080/api/v1/applications"

    def completed() -> list[str]:
        """Return the ids of applications that have ended."""
        told = cluster.answer(applications)
        return [application["id"] for application in told if application["attempts"][0]["completed"]]

    (application,) = wait_for(completed, 60, lambda: cluster.log("history"))
    assert cluster.answer(f"{applications}/{application}")["name"] == "recsys-from-zip"
    jobs = cluster.answer(f"{applications}/{application}/jobs")
    assert {"shipped/ingest", "shipped/index", "shipped/train"} <= {job.get("jobGroup") for job in jobs}
    sides = {f"train: iteration {number}, {side}" for number in (1, 2, 3, 4) for side in ("users", "items")}
    assert sides <= {job.get("description") for job in jobs}
    executors = cluster.answer(f"{applications}/{application}/allexecutors")
    assert len([one for one in executors if one["id"] != "driver" and one.get("removeReason")]) >= 2, executors


def test_factors_from_a_cluster_that_loses_machines_are_those_of_one_machine(
    shipped: Path, spark: SparkSession, arguments: list[str], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "build_session", lambda app_name: spark)
        for stage in ("ingest", "index", "train"):
            assert cli.main([stage, *arguments, "--set", f"output.path={tmp_path}/out"]) == 0
    assert factors(shipped) == factors(tmp_path / "out")
