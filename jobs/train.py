"""Run the train stage. For spark-submit; the same as ``recsys-spark train``."""

from recsys_spark.cli import entry_point

if __name__ == "__main__":
    entry_point("train")
