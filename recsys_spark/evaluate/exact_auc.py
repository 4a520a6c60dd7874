"""Areas under ROC curves over all held-out pairs, exactly, without bringing them together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.evaluate.shares import whole_share
from recsys_spark.kernels.label_metrics import RankedLabels, area_under_roc, rank_labels

_SCHEMA = "kind int, lowest double, n_zeros long, n_ones long, twice_won long"


def measure_areas(pairs: DataFrame, n_kinds: int, n_partitions: int) -> list[float]:
    """Return, by kind of scores, the chance that a one has a higher score than a zero; a tie counts half.

    Parameters
    ----------
    pairs : DataFrame
        ``kind int`` (from 0), ``score double`` (finite), ``is_one boolean``; read twice.
    n_kinds, n_partitions : int

    Returns
    -------
    list of float
        NaN where all are ones or all are zeros.

    Notes
    -----
    One shuffle, of all kinds together, by ranges of (kind, score); equal scores come together. The driver receives five
    numbers per range and kind.
    """
    ranges = pairs.repartitionByRange(n_partitions, "kind", "score") if n_partitions > 1 else pairs.coalesce(1)
    stretches: list[list[RankedLabels]] = [[] for _ in range(n_kinds)]
    for row in ranges.mapInArrow(rank_range, _SCHEMA).toArrow().to_pylist():
        stretches[row.pop("kind")].append(RankedLabels(**row))
    return [area_under_roc(of_kind) for of_kind in stretches]


def rank_range(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: the pairs of a range of (kind, score) -> what they add to the area of each kind."""
    table = whole_share(batches)
    if table is None:
        return
    kinds, scores = table["kind"].to_numpy(), table["score"].to_numpy()
    is_one = np.asarray(table["is_one"].to_numpy(), np.bool_)
    ranked = []
    for kind in np.unique(kinds):
        mine = kinds == kind
        ranked.append({"kind": int(kind), **rank_labels(scores[mine], is_one[mine])._asdict()})
    yield pa.RecordBatch.from_pylist(ranked, schema=_arrow_schema())


def _arrow_schema() -> pa.Schema:
    counts = [(name, pa.int64()) for name in ("n_zeros", "n_ones", "twice_won")]
    return pa.schema([("kind", pa.int32()), ("lowest", pa.float64()), *counts])
