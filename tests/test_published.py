"""What consumers read: the current run's own files, with pyarrow alone and with Spark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.published import read_current, read_current_table
from recsys_spark.runs.publication_log import current_publication, roll_back
from recsys_spark.tables import RECOMMENDATIONS
from tests.conftest import ROOT
from tests.stored_runs import STORAGE, published_run, write_run


def listed(root: Path | str) -> list[str]:
    (row,) = read_current_table(str(root), filter=ds.field("user_id") == "u2").to_pylist()
    return [entry["item_id"] for entry in row["recommendations"]]


def test_readers_get_the_files_of_the_current_run(tmp_path: Path) -> None:
    run = published_run(tmp_path, "r1", items=["a"])
    published_run(tmp_path, "r2", items=["b"])
    write_run(tmp_path, "r3", items=["c"])
    (Path(run.table_path(RECOMMENDATIONS)) / "part-from-a-zombie.parquet").write_bytes(b"PAR1")
    assert listed(tmp_path) == ["b"]
    assert listed(f"file://{tmp_path}") == ["b"]
    roll_back(str(tmp_path), STORAGE)
    assert listed(f"{tmp_path}/") == ["a"], "a file that the manifest does not name is not read"
    assert read_current_table(str(tmp_path), columns=["user_id"]).column_names == ["user_id"]


def test_a_damaged_entry_leaves_readers_where_they_were(tmp_path: Path) -> None:
    published_run(tmp_path, "r1", items=["a"])
    published_run(tmp_path, "r2", items=["b"])
    (tmp_path / "publication_log" / "00000002.json").write_bytes(b'{"number": 2, \xff')
    assert listed(tmp_path) == ["a"]
    assert current_publication(str(tmp_path), STORAGE).run_id == "r1"
    published_run(tmp_path, "r3", items=["c"])
    assert listed(tmp_path) == ["c"], "the next run takes them on"
    assert current_publication(str(tmp_path), STORAGE).number == 3


def test_where_nothing_is_published_readers_are_told(tmp_path: Path, spark: SparkSession) -> None:
    with pytest.raises(FileNotFoundError, match="nothing was published"):
        read_current_table(str(tmp_path))
    published_run(tmp_path, "r1")
    with pytest.raises(FileNotFoundError, match="no table 'similar_items'"):
        read_current_table(str(tmp_path), "similar_items")
    with pytest.raises(ConfigError, match="no such table"):
        read_current(spark, str(tmp_path), "similar_items")


def test_spark_reads_the_same(tmp_path: Path, spark: SparkSession) -> None:
    published_run(tmp_path, "r1", items=["a"])
    frame = read_current(spark, str(tmp_path))
    published_run(tmp_path, "r2", items=["b"])
    assert [row["recommendations"][0]["item_id"] for row in frame.collect()] == ["a", "a"], "what was read first stays"
    (spelled,) = {row["recommendations"][0]["item_id"] for row in read_current(spark, f"file://{tmp_path}").collect()}
    assert spelled == "b"


def test_a_program_without_spark_can_read(tmp_path: Path) -> None:
    published_run(tmp_path, "r1", items=["a"])
    code = "import sys\nfor name in ('pyspark', 'pydantic', 'click'): sys.modules[name] = None\n"
    code += (
        f"from recsys_spark.published import read_current_table\nprint(read_current_table({str(tmp_path)!r}).num_rows)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr
