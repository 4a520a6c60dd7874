"""The Spark session of a job. Master, memory and cores come from outside: spark-submit or spark-defaults."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.byte_sizes import parse_size
from recsys_spark.errors import ConfigError
from recsys_spark.java import find_java

log = logging.getLogger(__name__)

# What the data path relies on, whatever the cluster's defaults are.
_SQL_SETTINGS = {
    # Event times are UTC everywhere: days and intervals must not depend on the machine's time zone.
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # Few large Arrow batches: the workers' NumPy calls cost the same for 100 rows as for 100,000.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "200000",
    # Unless the records are large: blocks of ratings or vectors would fill a worker's memory with one batch.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 << 20),
    # A partition of a table is replaced only by a new run's own directory, never in place.
    "spark.sql.sources.partitionOverwriteMode": "STATIC",
    "spark.sql.parquet.compression.codec": "zstd",
    # The standard timestamp type of Parquet; Spark's own default is the retired INT96.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}
# Half of what a message may be by default: a value has an envelope.
_CONNECT_MESSAGE_BYTES = 64 << 20
_DAEMON = "recsys_spark.worker_daemon"
_ARROW_POOL = "spark.executorEnv.ARROW_DEFAULT_MEMORY_POOL"
# Addresses that a worker has and never touches, measured with pyarrow 25: mimalloc's, and those of libraries.
ARROW_POOL_BYTES, _UNTOUCHED_BYTES = 1 << 30, 80 << 20


def build_session(app_name: str) -> SparkSession:
    """Start Spark, or join the session that spark-submit has prepared.

    Parameters
    ----------
    app_name : str
        Shown in Spark's UI and history.

    Returns
    -------
    SparkSession
        With the SQL settings that the pipeline relies on. Nothing about master, memory or cores is set. Where
        ``SPARK_REMOTE`` names a Spark Connect server, a client of it.

    Raises
    ------
    ConfigError
        If no usable Java is found, or Spark does not start.
    """
    # Workers must have the driver's packages; PySpark's own default is whatever `python3` is on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    starts_java = "PYSPARK_GATEWAY_PORT" not in os.environ and "SPARK_REMOTE" not in os.environ
    if starts_java:
        java = find_java()
        os.environ["JAVA_HOME"] = str(java.home)
        log.info("using %s", java.describe())
    try:
        spark = SparkSession.builder.appName(app_name).getOrCreate()
    except Exception as error:
        raise ConfigError(
            "Spark did not start",
            got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            remedy="read the lines above; check JAVA_HOME, SPARK_CONF_DIR and the memory settings, or SPARK_REMOTE",
        ) from error
    for key, value in _SQL_SETTINGS.items():
        spark.conf.set(key, value)
    if is_connect(spark):
        _send_package(spark)
    elif starts_java and is_one_machine(spark):
        # Workers find this package where the driver does. Of a running session, `spark.conf` does not take it.
        spark.sparkContext._conf.setIfMissing("spark.python.daemon.module", _DAEMON)
    return spark


@contextmanager
def small_rows(spark: SparkSession) -> Iterator[None]:
    """Within it, batches for Python are limited by their number of rows alone.

    Spark adds up a batch's bytes again after every row, which takes as long as writing rows of three numbers.
    """
    name = "spark.sql.execution.arrow.maxBytesPerBatch"
    limit = spark.conf.get(name)
    assert limit is not None
    spark.conf.set(name, str(2**31 - 1))
    try:
        yield
    finally:
        spark.conf.set(name, limit)


def _send_package(spark: SparkSession) -> None:
    """Give the workers of a Spark Connect session this package; for other sessions spark-submit does it."""
    package = Path(__file__).parent
    with tempfile.TemporaryDirectory(prefix="recsys_spark_") as folder:
        base = Path(folder) / f"{package.name}-{secrets.token_hex(8)}"
        archive = shutil.make_archive(str(base), "zip", root_dir=package.parent, base_dir=package.name)
        spark.addArtifacts(archive, pyfile=True)
        # The client was given it as well, and has the package already.
        sys.path[:] = [path for path in sys.path if path != archive]


def is_connect(spark: SparkSession) -> bool:
    """Return whether a session is a Spark Connect client, which has no JVM, RDDs or broadcasts."""
    return type(spark).__module__.startswith("pyspark.sql.connect")


def is_one_machine(spark: SparkSession) -> bool:
    """Return whether the workers surely share the driver's files: Spark in local mode. Not for Connect clients."""
    master = spark.conf.get("spark.master", "") or ""
    return master == "local" or master.startswith("local[")


def default_parallelism(spark: SparkSession) -> int:
    """Return how many tasks the cluster runs by default, asked in a way that also works over Connect."""
    configured = spark.conf.get("spark.sql.leafNodeDefaultParallelism", None)
    if configured:
        return int(configured)
    # A cluster may grow; a machine does not.
    return _count_of_machine(spark) if _is_local(spark) else _count_partitions(spark)


def cores_of_machine(spark: SparkSession) -> int:
    """Return how many tasks run at once in local mode, whatever the default number of partitions."""
    asked = re.fullmatch(r"local(?:\[(\d+|\*)(?:,.*)?\])?", spark.conf.get("spark.master", "") or "")
    number = asked[1] if asked is not None else None
    cores = (os.cpu_count() or 1) if number == "*" else int(number or 1)
    return max(1, cores // int(spark.conf.get("spark.task.cpus", None) or 1))


@lru_cache(maxsize=8)
def _count_of_machine(spark: SparkSession) -> int:
    return _count_partitions(spark)


def _is_local(spark: SparkSession) -> bool:
    return (spark.conf.get("spark.master", None) or "").startswith("local")


def _count_partitions(spark: SparkSession) -> int:
    partitions = spark.range(1_000_000).select(F.spark_partition_id().alias("partition"))
    highest = partitions.agg(F.max("partition")).collect()[0][0]
    return int(highest) + 1


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a session has to work with; bytes, or None where nothing limits them or they are not known.

    Attributes
    ----------
    cores : int
        Tasks that run at once.
    driver_heap_bytes : int or None
        ``spark.driver.memory``: the driver's JVM.
    result_bytes : int or None
        ``spark.driver.maxResultSize``: what one job may return.
    worker_bytes : int or None
        A Python worker's part of ``spark.executor.pyspark.memory``, less what it reserves and does not use: the
        limit is one of addresses.
    reserved_bytes : int
        Of addresses, by a worker that does nothing yet; most of it by Arrow's pool, unless it is the system's.
    machine_bytes : int or None
        Memory of the driver's machine.
    message_bytes : int or None
        What one value may be on its way to the driver, where it comes over Spark Connect.
    is_local : bool
        Whether driver and workers share that machine.
    """

    cores: int
    driver_heap_bytes: int | None = None
    result_bytes: int | None = None
    worker_bytes: int | None = None
    reserved_bytes: int = 0
    machine_bytes: int | None = None
    message_bytes: int | None = None
    is_local: bool = False


def session_limits(spark: SparkSession) -> SessionLimits:
    """Return the limits that a session was started with; at most one job, of no data."""
    pyspark_memory = spark.conf.get("spark.executor.pyspark.memory", None)
    # Spark divides it by the tasks of an executor.
    tasks_of_executor = int(spark.conf.get("spark.executor.cores", None) or 1)
    part = parse_size(pyspark_memory, unit=1 << 20) // tasks_of_executor if pyspark_memory else None
    pool = 0 if spark.conf.get(_ARROW_POOL, None) == "system" else ARROW_POOL_BYTES
    reserved = 0 if part is None else pool + _UNTOUCHED_BYTES
    return SessionLimits(
        cores=default_parallelism(spark),
        driver_heap_bytes=parse_size(spark.conf.get("spark.driver.memory", None) or "1g", unit=1 << 20),
        result_bytes=parse_size(spark.conf.get("spark.driver.maxResultSize", None) or "1g") or None,
        worker_bytes=None if part is None else max(0, part - reserved),
        reserved_bytes=reserved,
        # A client's machine need not be the server's.
        machine_bytes=None if is_connect(spark) else machine_bytes(),
        message_bytes=_CONNECT_MESSAGE_BYTES if is_connect(spark) else None,
        is_local=_is_local(spark) and not is_connect(spark),
    )


def machine_bytes() -> int | None:
    """Return this machine's memory, or that of the container the process is in."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    try:
        container = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(container)) if container.isdigit() else physical
