from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import recsys_spark.kernels

CHECK = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module("recsys_spark.kernels." + name)
foreign = {"pyspark", "pandas", "pyarrow", "scipy", "matplotlib"} & set(sys.modules)
assert not foreign, foreign
"""


def test_kernels_load_no_spark_pandas_or_arrow():
    names = [module.name for module in pkgutil.iter_modules(recsys_spark.kernels.__path__)]
    assert "solve_rows" in names
    root = Path(recsys_spark.kernels.__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", CHECK, *names]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
