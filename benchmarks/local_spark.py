"""Spark on this machine, with the same settings for every library that is measured."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def set_environment() -> None:
    """Prepare the environment, where it is not set already; before NumPy is imported and Spark started."""
    os.environ.setdefault("SPARK_CONF_DIR", str(ROOT / "conf" / "local"))
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", submit_arguments())
    # Libraries with threads of their own would otherwise have them wait for BLAS's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def submit_arguments(cores: int | None = None) -> str:
    """Return what PySpark starts the JVM with: on all cores of this machine, or on some of them."""
    master = "" if cores is None else f"--master local[{cores}] "
    return f"{master}--driver-memory 10g pyspark-shell"
