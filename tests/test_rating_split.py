from __future__ import annotations

import numpy as np
from pyspark.sql import SparkSession

from recsys_spark.rating_split import are_held_out, is_held_out


def test_what_is_held_out_is_the_same_without_spark(spark: SparkSession) -> None:
    pairs = [(u, i) for u in (0, 7, 2**31 - 1) for i in (*range(60), 2**31 - 1)]
    ratings = spark.createDataFrame(pairs, "user_index int, item_index int")
    rows = ratings.select("*", is_held_out(0.3, 20_081).alias("out")).collect()
    for user in (0, 7, 2**31 - 1):
        expected = [row["out"] for row in sorted(rows) if row["user_index"] == user]
        found = are_held_out(user, np.array([*range(60), 2**31 - 1]), 0.3, 20_081)
        assert found.tolist() == expected
        assert 0 < sum(expected) < 40
