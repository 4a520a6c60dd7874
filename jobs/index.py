"""Run the index stage. For spark-submit; the same as ``recsys-spark index``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
