"""What a run needs of a machine, of Spark and of a storage: each looked at, with how to mend it."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from recsys_spark.byte_sizes import human_size, parse_size
from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.java import find_java
from recsys_spark.session import machine_bytes
from recsys_spark.storage import Storage, join

_OLDEST_PYTHON = (3, 11)
# From the oldest that is good to the first that is not.
_PACKAGES = {"pyspark": ("4.0", "5"), "numpy": ("1.26", ""), "pandas": ("2.2", "3"), "pyarrow": ("18", "")}
_LEAST_HEAP, _LEAST_FREE = 2 << 30, 5 << 30
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and how to mend it; ``ok`` is None where nothing could be seen."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""

    @property
    def is_well(self) -> bool:
        """Whether nothing has to be mended."""
        return self.ok is not False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def checks_of_machine() -> list[Check]:
    """Look at Python, Java, packages, memory, cores and BLAS threads; Spark is not started."""
    return [check_python(), check_java(), *check_packages(), check_memory(), check_cores(), check_blas_threads()]


def check_python() -> Check:
    """Return whether this Python is new enough."""
    found = f"{platform.python_version()} ({sys.executable})"
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    is_ok = sys.version_info >= _OLDEST_PYTHON
    return Check("python", is_ok, found, "" if is_ok else f"install Python {wanted} or newer, and this package into it")


def check_java() -> Check:
    """Return whether there is a Java that runs Spark, and where it was found."""
    if "SPARK_REMOTE" in os.environ:
        return Check("java", None, "not needed here: SPARK_REMOTE names a Spark Connect server")
    try:
        return Check("java", True, find_java().describe())
    except ConfigError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        remedy = next((line.removeprefix("remedy: ") for line in lines if line.startswith("remedy: ")), "")
        told = [line for line in lines if not line.startswith("remedy: ")]
        return Check("java", False, "; ".join(told), remedy)


def check_packages() -> list[Check]:
    """Return whether the packages of the data path are there, in versions that work together."""
    return [_check_package(name, *bounds) for name, bounds in _PACKAGES.items()]


def _check_package(name: str, oldest: str, below: str) -> Check:
    wanted = f"{name}>={oldest}" + (f",<{below}" if below else "")
    remedy = f"pip install '{wanted}' into {sys.prefix}"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, False, "is not installed", remedy)
    is_ok = _numbers(found) >= _numbers(oldest) and (not below or _numbers(found) < _numbers(below))
    return Check(name, is_ok, found, "" if is_ok else remedy)


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    found = []
    for part in text.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def check_memory() -> Check:
    """Return whether the driver's heap, as Spark's defaults set it, is large enough, and fits into the machine."""
    machine = machine_bytes()
    setting, source = _driver_memory()
    heap = parse_size(setting, unit=1 << 20)
    found = f"driver {human_size(heap)} ({source}) of {human_size(machine) if machine else 'an unknown size'}"
    if machine is not None and heap > machine * 0.8:
        return Check("memory", False, found, f"set spark.driver.memory to at most {human_size(machine * 0.6)}")
    if heap < _LEAST_HEAP:
        mend = (
            "set spark.driver.memory to 4g or so, for example by SPARK_CONF_DIR=conf/local; recsys-spark plan says more"
        )
        return Check("memory", False, found, mend)
    return Check("memory", True, found)


def _driver_memory() -> tuple[str, str]:
    """Return ``spark.driver.memory`` as the next session will have it, and where it comes from."""
    submitted = os.environ.get("PYSPARK_SUBMIT_ARGS", "").split()
    if "--driver-memory" in submitted[:-1]:
        return submitted[submitted.index("--driver-memory") + 1], "PYSPARK_SUBMIT_ARGS"
    if "SPARK_DRIVER_MEMORY" in os.environ:
        return os.environ["SPARK_DRIVER_MEMORY"], "SPARK_DRIVER_MEMORY"
    defaults = spark_defaults()
    if "spark.driver.memory" in defaults:
        return defaults["spark.driver.memory"], "spark-defaults.conf"
    return "1g", "Spark's default"


def spark_defaults() -> dict[str, str]:
    """Return the settings of ``spark-defaults.conf``, where one is found."""
    home = os.environ.get("SPARK_HOME")
    folder = os.environ.get("SPARK_CONF_DIR") or (f"{home}/conf" if home else "")
    file = Path(folder) / "spark-defaults.conf"
    if not folder or not file.is_file():
        return {}
    pairs = [line.split(None, 1) for line in file.read_text(encoding="utf-8").splitlines()]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2 and not pair[0].startswith("#")}


def check_cores() -> Check:
    """Return how many cores this process may use."""
    all_cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_cores
    found = f"{usable} of {all_cores}" if usable < all_cores else f"{usable}"
    quota = _quota_of_container()
    if quota is None or quota >= usable:
        return Check("cores", True, found)
    threads = max(1, int(quota))
    mend = f"set spark.master to local[{threads}]: more tasks than that wait for each other"
    return Check("cores", False, f"{found}, of which the container may use {quota:g}", mend)


def _quota_of_container() -> float | None:
    """Return how many cores' time a container has, None where there is no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def check_blas_threads() -> Check:
    """Return whether a worker's BLAS would take more than the one core that its task has.

    Spark sets OMP_NUM_THREADS for its workers; what is set for OpenBLAS or MKL goes before it.
    """
    given = {name: os.environ[name] for name in _BLAS_VARIABLES if name in os.environ}
    found = ", ".join(f"{name}={value}" for name, value in given.items()) or "not set: one a task, by Spark"
    many = [name for name in _BLAS_VARIABLES[:2] if given.get(name, "1") != "1"]
    mend = f"export {' '.join(f'{name}=1' for name in many)}: every task has one core" if many else ""
    return Check("BLAS threads", not many, found, mend)


def checks_of_spark(start: Callable[[], SparkSession]) -> tuple[list[Check], SparkSession | None]:
    """Start Spark, and look at one of its workers.

    One job of two tasks; the driver receives a row of each.

    Returns
    -------
    checks : list of Check
    session : SparkSession or None
        None where it did not start.
    """
    try:
        spark = start()
    except RecsysError as error:
        remedy = "read the lines above; check JAVA_HOME, SPARK_CONF_DIR and SPARK_REMOTE"
        return [Check("spark", False, " ".join(str(error).split()), remedy)], None
    master = spark.conf.get("spark.master", None) or os.environ.get("SPARK_REMOTE", "")
    checks = [Check("spark", True, f"{spark.version}, {master}")]
    try:
        rows = spark.range(2, numPartitions=2).mapInArrow(describe_worker, _WORKER_SCHEMA).collect()
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in lines if "Error:" in line), lines[0] if lines else type(error).__name__)
        remedy = "workers need Python with pyspark, numpy, pyarrow and this package: set PYSPARK_PYTHON"
        return [*checks, Check("workers", False, told, remedy)], spark
    found = {(row["python"], row["packages"]) for row in rows}
    mine = f"{sys.version_info[0]}.{sys.version_info[1]}"
    told = "; ".join(f"Python {python}, {packages}" for python, packages in sorted(found))
    is_same = all(python == mine for python, _ in found)
    remedy = "" if is_same else f"the driver has Python {mine}: set PYSPARK_PYTHON to the same version for the workers"
    checks.append(Check("workers", is_same, told, remedy))
    threads = sorted({row["blas_threads"] for row in rows})
    is_one = threads == ["1"]
    mend = "" if is_one else "set spark.executorEnv.OPENBLAS_NUM_THREADS=1 (and MKL_NUM_THREADS): a task has one core"
    checks.append(Check("workers' BLAS", is_one, f"threads: {', '.join(threads)}", mend))
    return checks, spark


_WORKER_SCHEMA = "python string, packages string, blas_threads string"


def describe_worker(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Say what a worker has: Python, packages, and how many threads its BLAS takes (worker function)."""
    for _ in batches:
        pass
    threads = next((os.environ[name] for name in _BLAS_VARIABLES if name in os.environ), "as many as there are cores")
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    packages = f"numpy {np.__version__}, pyarrow {pa.__version__}"
    yield pa.RecordBatch.from_pydict({"python": [python], "packages": [packages], "blas_threads": [threads]})


def checks_of_storage(root: str, storage: Storage) -> list[Check]:
    """Write, read, create once, list and remove a small file where runs will be, and look for room."""
    probe = join(root, f"doctor-{secrets.token_hex(4)}")
    text = secrets.token_hex(16)
    try:
        was_there = storage.exists(root)
        storage.check_writable(root)
        storage.write_text(probe, text)
        faults = [] if storage.read_text(probe) == text else ["what was read is not what was written"]
        if storage.create_if_absent(probe, "other") or storage.read_text(probe) != text:
            faults.append("a file that was there was replaced by one that must not replace it")
        storage.remove(probe)
        faults += ["the file is still there after it was removed"] if storage.exists(probe) else []
        if not was_there and not storage.list_names(root):
            storage.remove(root)
    except Exception as error:
        found = " ".join(str(error).split()) or type(error).__name__
        return [Check("storage", False, f"{root}: {found}", "choose another output.path, or mend its permissions")]
    if faults:
        return [Check("storage", False, f"{root}: {'; '.join(faults)}", "use a storage that keeps what is written")]
    return [Check("storage", True, f"{root}: written, read and removed"), _check_room(root, storage)]


def _check_room(root: str, storage: Storage) -> Check:
    free = storage.free_bytes(root)
    if free is None:
        return Check("room", None, "the storage does not say how much it has left")
    is_ok = free >= _LEAST_FREE
    mend = "" if is_ok else "make room: recsys-spark gc --keep K removes old runs"
    return Check("room", is_ok, f"{human_size(free)} free", mend)
