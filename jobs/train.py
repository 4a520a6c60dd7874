"""Run the train stage. For spark-submit; the same as ``recsys-spark train``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
