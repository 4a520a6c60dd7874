"""Build what a cluster is given: the wheel, a zip for ``--py-files``, and an environment that workers unpack.

``make package`` leaves all three in ``dist/``. The zip is the wheel under another name: executors take packages out
of ``.zip`` files and pass over ``.whl`` files without a word. The environment has the package and all that it needs
but pyspark, which a cluster has.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("pyproject.toml", "README.md", "LICENSE", "recsys_spark")
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(target: Path) -> Path:
    """Build the wheel from a clean copy of the sources: a ``build/`` that was left behind would get into it.

    Parameters
    ----------
    target : Path
        Folder, which is made. Wheels of this package that are in it are removed.

    Returns
    -------
    Path
        The wheel.
    """
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("recsys_spark-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="recsys_spark_wheel_") as folder:
        for name in _SOURCES:
            source, copy = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, copy)
        _run(sys.executable, *_PIP, "wheel", "--no-deps", "--wheel-dir", str(target), folder)
    (wheel,) = target.glob("recsys_spark-*.whl")
    return wheel


def zip_of(wheel: Path) -> Path:
    """Copy a wheel to the name that ``--py-files`` takes; return it."""
    target = wheel.with_name(f"recsys_spark-{version_of(wheel)}.zip")
    shutil.copyfile(wheel, target)
    return target


def version_of(wheel: Path) -> str:
    """Return the version that a wheel's name says."""
    return wheel.name.split("-")[1]


def worker_requirements(wheel: Path) -> list[str]:
    """Return what a wheel requires without extras, less pyspark."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    required = metadata.get_all("Requires-Dist") or []
    return [text for text in required if "extra ==" not in text and not re.match(r"pyspark\b", text)]


def pack_environment(wheel: Path) -> Path:
    """Install a wheel with its requirements, but without pyspark, and pack the environment for ``--archives``.

    The interpreter in it is a link: every machine needs the same Python at the same path.

    Returns
    -------
    Path
        A ``.tar.gz`` beside the wheel.
    """
    target = wheel.with_name(f"recsys_spark-{version_of(wheel)}-environment.tar.gz")
    with tempfile.TemporaryDirectory(prefix="recsys_spark_environment_") as folder:
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        # Not compiled: smaller, and workers compile what they import.
        _run(python, *_PIP, "install", "--no-compile", *worker_requirements(wheel))
        _run(python, *_PIP, "install", "--no-compile", "--no-deps", str(wheel))
        packer = Path(sys.executable).with_name("venv-pack")
        _run(str(packer), "--quiet", "--force", "--prefix", str(environment), "--output", str(target))
    return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    """Build everything and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=ROOT / "dist")
    wheel = build_wheel(parser.parse_args().target)
    for built in (wheel, zip_of(wheel), pack_environment(wheel)):
        print(f"{built.stat().st_size:>12,} bytes  {built}")


if __name__ == "__main__":
    main()
