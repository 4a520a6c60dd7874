"""Run all stages in one Spark session. For spark-submit; the same as ``recsys-spark pipeline``."""

from recsys_spark.cli import entry_point

if __name__ == "__main__":
    entry_point("pipeline")
