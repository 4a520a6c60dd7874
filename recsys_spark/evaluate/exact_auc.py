"""The area under the ROC curve over all held-out pairs, exactly, without bringing them together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.evaluate.shares import whole_share
from recsys_spark.kernels.label_metrics import RankedLabels, area_under_roc, rank_labels

_SCHEMA = "lowest double, n_zeros long, n_ones long, twice_won long"


def measure_auc(pairs: DataFrame, n_partitions: int) -> float:
    """Return the chance that a one has a higher score than a zero; a tie counts half.

    Parameters
    ----------
    pairs : DataFrame
        ``score double`` (finite), ``is_one boolean``; read twice.
    n_partitions : int

    Returns
    -------
    float
        NaN where all are ones or all are zeros.

    Notes
    -----
    One shuffle by ranges of scores; equal scores come together. The driver receives four numbers per range.
    """
    ranges = pairs.repartitionByRange(n_partitions, "score") if n_partitions > 1 else pairs.coalesce(1)
    rows = ranges.mapInArrow(rank_range, _SCHEMA).toArrow().to_pylist()
    return area_under_roc([RankedLabels(**row) for row in rows])


def rank_range(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: the pairs of a range of scores -> what they add to the area."""
    table = whole_share(batches)
    if table is not None:
        is_one = np.asarray(table["is_one"].to_numpy(), np.bool_)
        ranked = rank_labels(table["score"].to_numpy(), is_one)
        yield pa.RecordBatch.from_pylist([ranked._asdict()])
