"""One Spark session for all tests, and small pipelines to run in it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before NumPy is loaded: workers run their BLAS on one thread, and so do the kernels tested here.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Copies of blocks lie in the temporary folder: one of its own, so that two test runs at once do not meet.
TEMPORARY = tempfile.TemporaryDirectory(prefix="recsys-tests-", ignore_cleanup_errors=True)
os.environ["TMPDIR"] = tempfile.tempdir = TEMPORARY.name
ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("SPARK_CONF_DIR", str(ROOT / "conf" / "local"))
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ["PYSPARK_PYTHON"] = sys.executable
# Hundreds of small queries run once each: optimising their compiled code would cost more than it saves.
os.environ.setdefault(
    "PYSPARK_SUBMIT_ARGS",
    "--driver-java-options '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC' pyspark-shell",
)

import hypothesis
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.interval import Interval
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.session import build_session
from recsys_spark.storage import storage_for


def python_path() -> str:
    """Return a path on which a process of its own finds this package and its tests."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


SHARED_DATA = Path(os.environ.get("RECSYS_TEST_DATA", ROOT.parent / "shared" / "data"))

hypothesis.settings.register_profile("default", deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = build_session("recsys-tests")
    # Few partitions: a test's tables have a handful of rows, and every task costs its scheduling.
    session.conf.set("spark.sql.shuffle.partitions", "2")
    # Adaptive execution would turn every small query into several jobs.
    session.conf.set("spark.sql.adaptive.enabled", "false")
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    session.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    yield session
    session.stop()


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """Return a folder in memory where there is one, for thousands of small files that are made durable."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def small_config(folder: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Return a small valid configuration, with the given sections laid over it."""
    content: dict[str, Any] = {
        "name": "test",
        "input": {"path": str(folder / "ratings.csv")},
        "train": {"rank": 2, "iterations": 2},
        "recommend": {"n": 3},
        "output": {"path": str(folder / "out")},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section} if isinstance(section, dict) else section
    return content


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes a configuration file."""

    def write(**sections: Any) -> str:
        path = tmp_path / "config.yaml"
        text = yaml.safe_dump(small_config(tmp_path, sections), allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def make_context(spark: SparkSession, tmp_path: Path) -> Callable[..., StageContext]:
    """Return a function that makes the context of a run in the test's own folder."""

    def make(interval: Interval | None = None, run_id: str = "r1", **sections: Any) -> StageContext:
        config = PipelineConfig.model_validate(small_config(tmp_path, sections))
        storage = storage_for(config.output.path, spark)
        run = Run(config.output.path, run_id, "2026-01-05")
        return StageContext(spark, config, run, storage, Progress(), interval)

    return make
