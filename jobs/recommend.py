"""Run the recommend stage. For spark-submit; the same as ``recsys-spark recommend``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["recommend", *sys.argv[1:]]))
