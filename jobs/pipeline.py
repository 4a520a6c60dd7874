"""Run all stages in one Spark session. For spark-submit; the same as ``recsys-spark pipeline``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["pipeline", *sys.argv[1:]]))
