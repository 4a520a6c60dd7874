"""Run the recommend stage. For spark-submit; the same as ``recsys-spark recommend``."""

from recsys_spark.cli import entry_point

if __name__ == "__main__":
    entry_point("recommend")
