"""Install the wheel into an empty environment, and run the demo and two nights of a shop far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import venv
from pathlib import Path

from shipping.package import ROOT, build_wheel, version_of

_DEMO, _SHOP = "conf/goodbooks.yaml", "conf/online_retail.yaml"
# The shop's first eleven days: 29,015 rows; then one more night.
_FIRST, _END, _NIGHT = "2010-12-01", "2010-12-14", "2010-12-14"
_SMALL = ("--set", "train.iterations=3")
# Where this checkout, its environment or another Spark could come in.
_OWN_TO_THE_CHECKOUT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SPARK_HOME", "SPARK_CONF_DIR")


def install(folder: Path) -> tuple[Path, Path]:
    """Build the wheel and install it; return a folder with configurations and data, and the environment."""
    wheel = build_wheel(folder / "dist")
    version = version_of(wheel)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not any(f"## {heading}" in changes for heading in (version, "Unreleased")):
        raise SystemExit(f"CHANGELOG.md says nothing of {version}")
    home, environment = folder / "home", folder / "environment"
    for part in ("conf", "examples"):
        shutil.copytree(ROOT / part, home / part)
    venv.create(environment, with_pip=True)
    _run(home, environment, "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[local]")
    where = _run(home, environment, "python", "-c", _LOOK).split()
    if where != [version, version, "typed", str(environment)]:
        raise SystemExit(f"the installed package is not the wheel's: {where}")
    return home, environment


def run_demo(home: Path, environment: Path) -> None:
    """Run what `make demo` runs, and read what is published."""
    _run(home, environment, "recsys-spark", "pipeline", "--config", _DEMO, "--run-id", "demo")
    run_id, users = _run(home, environment, "python", "-c", _READ, "runs/goodbooks").split()
    if run_id != "demo" or int(users) < 50_000:
        raise SystemExit(f"the demo is not what readers see, but {run_id} with lists of {users} users")
    print(f"the demo's lists of {users} users from an installed wheel")


def run_two_nights(home: Path, environment: Path) -> None:
    """Run the shop's first days and one night more, and read what is published then."""
    night = ("--config", _SHOP, *_SMALL)
    _run(home, environment, "recsys-spark", "pipeline", *night, "--start", _FIRST, "--end", _END, "--run-id", "first")
    _run(home, environment, "recsys-spark", "pipeline", *night, "--date", _NIGHT, "--run-id", "night")
    run_id, users = _run(home, environment, "python", "-c", _READ, "runs/online-retail").split()
    if run_id != "night" or int(users) < 100:
        raise SystemExit(f"readers do not see the second run, but {run_id} with lists of {users} users")
    print(f"the shop's lists of {users} users, after one night more")


_LOOK = """
import sys
from importlib.metadata import version
from pathlib import Path
import recsys_spark
package = Path(recsys_spark.__file__).parent
typed = "typed" if (package / "py.typed").is_file() else "untyped"
print(version("recsys-spark"), recsys_spark.__version__, typed, sys.prefix if sys.prefix in str(package) else package)
"""
_READ = """
import sys
from recsys_spark.published import read_current_table
table = read_current_table(sys.argv[1])
print(table.column("run_id")[0].as_py(), table.num_rows)
"""


def _run(home: Path, environment: Path, program: str, *arguments: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in _OWN_TO_THE_CHECKOUT}
    inherited = {name: value for name, value in inherited.items() if not name.startswith("PYSPARK")}
    done = subprocess.run(
        [environment / "bin" / program, *arguments],
        cwd=home,
        env={**inherited, "SPARK_CONF_DIR": str(home / "conf" / "local")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{program} {' '.join(arguments)} failed with {done.returncode}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="recsys_spark_release_") as temporary:
        installed = install(Path(temporary).resolve())
        run_demo(*installed)
        run_two_nights(*installed)
