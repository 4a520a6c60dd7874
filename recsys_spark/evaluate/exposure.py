"""How places in lists are shared among items: coverage, Gini, and what users' lists have in common."""

from __future__ import annotations

from functools import reduce

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.estimates import Estimate, single
from recsys_spark.kernels.list_variety import gini, shared_places


def measure_exposure(lists: dict[str, DataFrame], n: int, n_candidates: int) -> list[Estimate]:
    """Measure how the lists of each kind share their places among the items.

    Parameters
    ----------
    lists : dict of str to DataFrame
        By kind: ``items array<int>``, best first.
    n : int
        Length at which lists are cut.
    n_candidates : int
        Items that could be listed.

    Returns
    -------
    list of Estimate
        ``coverage`` (share of the candidates that are in any list), ``gini`` (0: all items alike; near 1: a few have
        all places) and ``shared_places`` (share of the places that two users' lists have in common). No intervals.

    Notes
    -----
    One job: a shuffle of the entries by item. The driver receives how many items are in so many lists.
    """
    entries = reduce(
        DataFrame.unionByName,
        [
            frame.select(F.lit(kind).alias("kind"), F.posexplode(F.slice("items", 1, n)).alias("place", "item_index"))
            for kind, frame in lists.items()
        ],
    )
    by_item = entries.groupBy("kind", "item_index").agg(
        F.count("*").alias("times"), F.count_if(F.col("place") == 0).alias("times_first")
    )
    by_times = by_item.groupBy("kind", "times").agg(F.count("*").alias("n_items"), F.sum("times_first").alias("first"))
    rows = by_times.collect()
    # Every list that is not empty has one first place.
    n_lists = {kind: sum(row["first"] for row in rows if row["kind"] == kind) for kind in lists}
    return [
        estimate
        for kind in lists
        for estimate in _of_counts(
            kind,
            np.array([[row["times"], row["n_items"]] for row in rows if row["kind"] == kind], np.int64).reshape(-1, 2),
            n_lists[kind],
            n,
            n_candidates,
        )
    ]


def _of_counts(
    kind: str, counts: np.ndarray[tuple[int, int], np.dtype[np.int64]], n_lists: int, n: int, n_candidates: int
) -> list[Estimate]:
    times, n_items = counts.T
    n_listed = int(n_items.sum())
    if n_listed == 0:
        return []
    # Items that are in no list have no row.
    all_times, all_items = np.append(times, 0), np.append(n_items, n_candidates - n_listed)
    found = {
        "coverage": n_listed / n_candidates,
        "gini": gini(all_times, all_items),
        "shared_places": shared_places(times, n_items, n_lists, n),
    }
    return [single(kind, f"{name}@{n}", value, n_candidates) for name, value in found.items() if np.isfinite(value)]
