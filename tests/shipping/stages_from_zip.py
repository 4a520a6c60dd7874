"""A job for ``spark-submit --py-files``: looks where the package comes from, and runs the stages up to training."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pyarrow as pa

import recsys_spark
from recsys_spark.cli import main
from recsys_spark.session import build_session


def tell_place(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: where it has the package from."""
    import recsys_spark as of_worker

    for _ in batches:
        yield pa.RecordBatch.from_pylist([{"place": of_worker.__file__}])


if __name__ == "__main__":
    spark = build_session("recsys-from-zip")
    rows = spark.range(4, numPartitions=4).mapInArrow(tell_place, "place string").collect()
    for place in (recsys_spark.__file__, *(row["place"] for row in rows)):
        assert ".zip/" in place, f"the package does not come from the zip: {place}"
    for stage in ("ingest", "index", "train"):
        code = main([stage, *sys.argv[1:]])
        if code != 0:
            sys.exit(code)
