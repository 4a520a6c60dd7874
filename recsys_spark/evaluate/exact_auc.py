"""Areas under ROC curves over held-out pairs, overall and by the users' activity, without bringing them together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.evaluate.shares import groups_of, whole_share
from recsys_spark.kernels.label_metrics import RankedLabels, area_under_roc, rank_labels

_SCHEMA = "kind int, segment int, lowest double, n_zeros long, n_ones long, twice_won long"


class Area(NamedTuple):
    """An area under a ROC curve, and the number of pairs that it is of; NaN where all are ones or all are zeros."""

    value: float
    n_pairs: int


def measure_areas(pairs: DataFrame, n_partitions: int, activity_bounds: tuple[int, ...]) -> dict[tuple[int, int], Area]:
    """Return the chance that a one has a higher score than a zero; a tie counts half.

    Parameters
    ----------
    pairs : DataFrame
        ``kind int`` (from 0), ``score double`` (finite), ``is_one boolean``, ``n_known int`` (training ratings of the
        user); read twice.
    n_partitions : int
    activity_bounds : tuple of int
        Between the groups of users, see `groups_of`.

    Returns
    -------
    dict of (kind, segment) to Area
        Segment 0 are all pairs, segment 1 + g those of the users of group g; of what has any pair.

    Notes
    -----
    One shuffle, of all kinds together, by ranges of (kind, score); equal scores come together. A range of scores is one
    for all pairs and for those of a group alike, so that groups need no shuffle of their own. The driver receives six
    numbers per range, kind and segment.
    """
    ranges = pairs.repartitionByRange(n_partitions, "kind", "score") if n_partitions > 1 else pairs.coalesce(1)
    ranked = ranges.mapInArrow(partial(rank_range, activity_bounds=activity_bounds), _SCHEMA)
    stretches: dict[tuple[int, int], list[RankedLabels]] = {}
    for row in ranked.toArrow().to_pylist():
        stretches.setdefault((row.pop("kind"), row.pop("segment")), []).append(RankedLabels(**row))
    return {
        key: Area(area_under_roc(parts), sum(part.n_zeros + part.n_ones for part in parts))
        for key, parts in stretches.items()
    }


def rank_range(batches: Iterator[pa.RecordBatch], activity_bounds: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: the pairs of a range of (kind, score) -> what they add to the area of each kind and segment."""
    table = whole_share(batches)
    if table is None:
        return
    kinds, scores = table["kind"].to_numpy(), table["score"].to_numpy()
    is_one = np.asarray(table["is_one"].to_numpy(), np.bool_)
    group = groups_of(table["n_known"].to_numpy(), activity_bounds)
    ranked = []
    for kind in np.unique(kinds):
        of_kind = kinds == kind
        members = [(0, of_kind), *((1 + int(g), of_kind & (group == g)) for g in np.unique(group[of_kind]))]
        for segment, mine in members:
            labels = rank_labels(scores[mine], is_one[mine])
            ranked.append({"kind": int(kind), "segment": segment, **labels._asdict()})
    yield pa.RecordBatch.from_pylist(ranked, schema=_arrow_schema())


def _arrow_schema() -> pa.Schema:
    numbers = [(name, pa.int32()) for name in ("kind", "segment")]
    counts = [(name, pa.int64()) for name in ("n_zeros", "n_ones", "twice_won")]
    return pa.schema([*numbers, ("lowest", pa.float64()), *counts])
