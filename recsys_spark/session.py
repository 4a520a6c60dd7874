"""The Spark session of a job. Master, memory and cores come from outside: spark-submit or spark-defaults."""

from __future__ import annotations

import logging
import os
import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

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
    # A partition of a table is replaced only by a new run's own directory, never in place.
    "spark.sql.sources.partitionOverwriteMode": "STATIC",
    "spark.sql.parquet.compression.codec": "zstd",
    # The standard timestamp type of Parquet; Spark's own default is the retired INT96.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}


def build_session(app_name: str) -> SparkSession:
    """Start Spark, or join the session that spark-submit has prepared.

    Parameters
    ----------
    app_name : str
        Shown in Spark's UI and history.

    Returns
    -------
    SparkSession
        With the SQL settings that the pipeline relies on. Nothing about master, memory or cores is set.

    Raises
    ------
    ConfigError
        If no usable Java is found, or Spark does not start.
    """
    # Workers must have the driver's packages; PySpark's own default is whatever `python3` is on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if "PYSPARK_GATEWAY_PORT" not in os.environ and "SPARK_REMOTE" not in os.environ:
        java = find_java()
        os.environ["JAVA_HOME"] = str(java.home)
        log.info("using %s", java.describe())
    try:
        spark = SparkSession.builder.appName(app_name).getOrCreate()
    except Exception as error:
        raise ConfigError(
            "Spark did not start",
            got=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            remedy="read the lines above; check JAVA_HOME, SPARK_CONF_DIR and the memory settings",
        ) from error
    for key, value in _SQL_SETTINGS.items():
        spark.conf.set(key, value)
    return spark


def default_parallelism(spark: SparkSession) -> int:
    """Return how many tasks the cluster runs by default, asked in a way that also works over Connect."""
    configured = spark.conf.get("spark.sql.leafNodeDefaultParallelism", None)
    if configured:
        return int(configured)
    return spark.range(1_000_000).select(F.spark_partition_id()).distinct().count()
