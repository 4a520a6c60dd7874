"""Write the page of a run. For spark-submit; the same as ``recsys-spark report``."""

import sys

from recsys_spark.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
