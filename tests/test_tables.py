from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark.errors import ContractError
from recsys_spark.tables import INDEXED_RATINGS


@pytest.mark.parametrize("codec", ["zstd", "uncompressed"])
def test_no_flipped_bit_and_no_cut_changes_what_is_read(spark: SparkSession, tmp_path: Path, codec: str) -> None:
    rows = [(k % 97, k % 89, float(k % 5), 1.0, None) for k in range(1000)]
    frame = spark.createDataFrame(rows, INDEXED_RATINGS.schema).coalesce(1)
    path = tmp_path / "table"
    frame.write.option("compression", codec).parquet(str(path))
    (part,) = path.glob("*.parquet")
    # Hadoop's own check sums of local files would find it first; other storages have none.
    for side_file in path.glob(".*.crc"):
        side_file.unlink()
    whole, expected = part.read_bytes(), sorted(map(tuple, frame.collect()))
    n_refused = 0
    for place in range(4, len(whole), len(whole) // 15):
        for damaged in (whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :], whole[:place]):
            part.write_bytes(damaged)
            try:
                found = sorted(map(tuple, INDEXED_RATINGS.read(spark, str(path)).collect()))
            except Exception:
                n_refused += 1
                continue
            assert found == expected, place
    assert n_refused >= 15
    with pytest.raises(ContractError, match="lacks a column"):
        INDEXED_RATINGS.select(frame.drop("rating"))
