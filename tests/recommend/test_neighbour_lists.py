"""Lists of a neighbourhood model, as the worker makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from recsys_spark.kernels.neighbour_average import NeighbourAverages, sparse_rows
from recsys_spark.recommend import Candidates
from recsys_spark.recommend.lists import rank_users
from recsys_spark.shared_value import SharedValue


def test_users_get_means_and_what_neighbours_thought() -> None:
    candidates = Candidates.from_items(
        pa.array(["d", "b", "a", "c"]), np.arange(4, dtype=np.int32), np.float32([[0.5], [0], [0], [0]]),
        np.array([1, 9, 3, 3]), n_items=4, global_mean=3.0, biases=True,
    )  # fmt: skip
    # Of user 7: 2 above the mean for item 0 (d), 1 below it for item 1 (b).
    columns = candidates.column_of_index[np.array([0, 1])]
    right = sparse_rows(np.array([7, 7]), columns, np.float32([2, -1]), 8)
    candidates = replace(candidates, neighbours=NeighbourAverages(right, 4, users_are_neighbours=True))
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array(["x", "y", "z"]),
            "factors": pa.array([[], [], None], pa.list_(pa.float32())),
            "bias": pa.array([0.25, 0.0, None], pa.float32()),
            "evidence": pa.array([[7], [], None], pa.list_(pa.int32())),
            "evidence_values": pa.array([[0.5], [], None], pa.list_(pa.float32())),
            "hidden": pa.array([None, [0], [1]], pa.list_(pa.int32())),
        }
    )
    made = [row for part in rank_users(iter([batch]), SharedValue(candidates), 3) for row in part.to_pylist()]
    lists = {row["user"]: [(e["item_id"], e["score"], e["source"]) for e in row["recommendations"]] for row in made}
    assert lists == {
        "x": [("d", 5.75, "cf"), ("a", 3.25, "cf"), ("c", 3.25, "cf")],
        "y": [("a", 3.0, "cf"), ("b", 3.0, "cf"), ("c", 3.0, "cf")],
        "z": [("a", 3.0, "popular"), ("c", 3.0, "popular"), ("d", 1.0, "popular")],
    }
