"""Ids on the driver: their numbers, and the type that a model shows them in."""

from __future__ import annotations

import pyarrow as pa
import pytest

from recsys_spark.ml.ids import NumberedIds
from recsys_spark.rating_blocks import ITEMS, USERS


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        ([-(2**31), 2**31 - 1], pa.int32()),
        ([-(2**31) - 1, 0], pa.int64()),
        ([0, 2**31], pa.int64()),
        ([], pa.int64()),
    ],
)
def test_numbers_are_shown_as_mllib_does_where_it_can(ids: list[int], shown: pa.DataType) -> None:
    labels = NumberedIds(USERS, pa.array(ids, pa.int64())).labels()
    assert labels.type == shown
    assert labels.to_pylist() == ids


def test_strings_stay_and_are_numbered_by_their_places() -> None:
    numbered = NumberedIds(ITEMS, pa.array(["10", "9", "é"]))
    assert numbered.labels().to_pylist() == ["10", "9", "é"]
    assert numbered.index("item").to_pydict() == {"item": ["10", "9", "é"], "item_index": [0, 1, 2]}
    assert len(numbered) == 3
