"""The wheel, and the zip that executors take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import recsys_spark
from shipping.package import build_wheel, pack_environment, version_of, worker_requirements, zip_of
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_the_version_the_types_the_templates_and_nothing_else(wheel: Path) -> None:
    assert version_of(wheel) == recsys_spark.__version__
    names = set(zipfile.ZipFile(wheel).namelist())
    information = f"recsys_spark-{recsys_spark.__version__}.dist-info/"
    shipped = {name for name in names if not name.startswith(information)}
    package = ROOT / "recsys_spark"
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"recsys_spark/py.typed", "recsys_spark/report/templates/run.html"} <= shipped
    assert f"{information}licenses/LICENSE" in names


def test_the_version_is_written_in_one_place() -> None:
    for path in [ROOT / "pyproject.toml", *(ROOT / "docker").rglob("*"), *(ROOT / "shipping").glob("*.py")]:
        if path.is_file():
            pattern = rf"recsys.spark[^\n]{{0,3}}{re.escape(recsys_spark.__version__)}"
            assert not re.search(pattern, path.read_text(encoding="utf-8")), f"{path} repeats the version"


def test_a_driver_runs_from_the_zip(wheel: Path, tmp_path: Path) -> None:
    archive = zip_of(wheel)
    assert archive.suffix == ".zip", "executors pass over other names"
    code = "import recsys_spark; from importlib.metadata import version\n"
    code += "from recsys_spark.cli import main; from recsys_spark.report.page import _environment\n"
    code += "assert _environment().get_template('run.html')\n"
    code += "print(recsys_spark.__file__, version('recsys-spark'), main(['pipeline', '--help']))"
    environment = {**os.environ, "PYTHONPATH": str(archive)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    file, version, exit_code = done.stdout.splitlines()[-1].split()
    assert file.startswith(str(archive))
    assert (version, exit_code) == (recsys_spark.__version__, "0")


def test_workers_are_packed_all_that_the_driver_needs_but_pyspark(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("venv_pack", reason="venv-pack2 is not installed")
    required = {re.split(r"[<>=]", text)[0].lower() for text in worker_requirements(wheel)}
    assert {"numpy", "pyarrow", "pandas", "pydantic"} <= required
    assert "pyspark" not in required
    with tarfile.open(pack_environment(wheel)) as archive:
        archive.extractall(tmp_path / "environment", filter="fully_trusted")
    code = "import importlib.util as u, sys, numpy, pyarrow, recsys_spark.kernels.top_n\n"
    code += "print(u.find_spec('pyspark'), sys.prefix)"
    python = tmp_path / "environment" / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", str(tmp_path / "environment")]
