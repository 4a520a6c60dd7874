"""Run the features stage. For spark-submit; the same as ``recsys-spark features``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["features", *sys.argv[1:]]))
