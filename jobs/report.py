"""Write the page of a run. For spark-submit; the same as ``recsys-spark report``."""

from recsys_spark.cli import entry_point

if __name__ == "__main__":
    entry_point("report")
