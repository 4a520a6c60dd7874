from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block
from recsys_spark.rating_blocks import (
    ITEMS,
    SIDES,
    USERS,
    Side,
    assemble_blocks,
    block_to_arrow,
    blocks_from_arrow,
    choose_n_blocks,
    placements,
    rating_blocks,
)


def random_ratings(spark: SparkSession, n: int = 500, seed: int = 0) -> tuple[DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = np.unique(rng.integers(0, [40, 60], (n, 2)), axis=0)
    values = rng.normal(size=len(pairs)).astype(np.float32)
    table = pa.table(
        {
            "user_index": pairs[:, 0].astype(np.int32),
            "item_index": pairs[:, 1].astype(np.int32),
            "rating": values,
        }
    )
    return spark.createDataFrame(table), np.column_stack([pairs, values])


def to_arrow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (block_to_arrow(*block) for block in assemble_blocks(batches))


def blocks_of(ratings: DataFrame, side: Side, n_blocks: int) -> dict[int, CsrBlock]:
    both = rating_blocks(ratings, SIDES, n_blocks, to_arrow)
    return dict(blocks_from_arrow(both.where(F.col("side") == side.number).toArrow().to_batches()))


@pytest.mark.parametrize("side", [USERS, ITEMS])
@pytest.mark.parametrize("n_blocks", [1, 3, 50])
def test_blocks_hold_every_rating_once(spark: SparkSession, side: Side, n_blocks: int) -> None:
    ratings, expected = random_ratings(spark)
    blocks = blocks_of(ratings.repartition(4), side, n_blocks)
    found = []
    for number, block in blocks.items():
        assert (block.row_index % n_blocks == number).all()
        rows = np.repeat(block.row_index, block.degrees)
        found.append(np.column_stack([rows, block.column_index, block.values]))
    columns = [0, 1, 2] if side is USERS else [1, 0, 2]
    together = np.concatenate(found)
    order = np.lexsort((together[:, 1], together[:, 0]))
    wanted = expected[:, columns]
    np.testing.assert_array_equal(together[order], wanted[np.lexsort((wanted[:, 1], wanted[:, 0]))])


def test_blocks_are_canonical_whatever_the_partitions(spark: SparkSession) -> None:
    ratings, _ = random_ratings(spark)
    first, second = (blocks_of(ratings.repartition(n), USERS, 3) for n in (1, 6))
    assert first.keys() == second.keys()
    for number, block in first.items():
        for name in ("row_index", "indptr", "column_index", "values"):
            np.testing.assert_array_equal(getattr(block, name), getattr(second[number], name))


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_each_placement_goes_to_its_own_partition(spark: SparkSession, n: int) -> None:
    rows = [(place, number) for number, place in enumerate(placements(spark, n))]
    placed = spark.createDataFrame(rows, "placement int, number int").repartition(n, "placement")
    found = placed.select("number", F.spark_partition_id().alias("partition")).collect()
    assert sorted((row["number"], row["partition"]) for row in found) == [(k, k) for k in range(n)]


def test_arrow_round_trip_is_exact() -> None:
    block = build_csr_block(np.array([5, 1, 5]), np.array([2, 9, 0]), np.array([0.1, -2, np.pi], np.float32))
    number, copy = next(blocks_from_arrow(iter([block_to_arrow(ITEMS, 3, block)])))
    assert number == 3
    for name in ("row_index", "indptr", "column_index", "values"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(block, name))


def test_number_of_blocks_follows_size() -> None:
    assert choose_n_blocks(4, 10) == 1
    usual = choose_n_blocks(4, 1_000_000)
    assert choose_n_blocks(4, 1_000_000_000) > usual > 1


def test_vectors_of_a_block_stay_below_one_gibibyte() -> None:
    n_rows, width = 30_000_000, 129
    n_blocks = choose_n_blocks(2, 1_000, n_rows, width)
    assert n_rows / n_blocks * width * 4 <= 1 << 30
    assert n_rows / (n_blocks - 1) * width * 4 > 1 << 30
    assert choose_n_blocks(2, 1_000_000, 10_000, width) == choose_n_blocks(2, 1_000_000)
