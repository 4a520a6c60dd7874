"""Spark on this machine, with the same settings for every library that is measured."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def set_environment(cores: int | None = None) -> None:
    """Prepare the environment; before NumPy is imported and Spark started.

    Parameters
    ----------
    cores : int, optional
        Of this machine, for Spark; default: all.
    """
    os.environ.setdefault("SPARK_CONF_DIR", str(ROOT / "conf" / "local"))
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    master = "" if cores is None else f"--master local[{cores}] "
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", f"{master}--driver-memory 10g pyspark-shell")
    # Libraries with threads of their own would otherwise have them wait for BLAS's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
