"""Run the evaluate stage. For spark-submit; the same as ``recsys-spark evaluate``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
