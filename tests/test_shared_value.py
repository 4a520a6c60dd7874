"""What tasks are given: mapped files where driver and workers share a machine."""

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from pyspark.sql import SparkSession

from recsys_spark import shared_value
from recsys_spark.machine_folder import machine_folder
from recsys_spark.shared_value import SharedValue, leave, read_mapped, shared, write_mapped


@dataclass(frozen=True, slots=True)
class Given:
    name: str
    arrays: tuple[np.ndarray, ...]
    nothing: np.ndarray | None = None


def given() -> Given:
    generator = np.random.default_rng(0)
    arrays = (
        generator.normal(size=(7, 5)).astype(np.float32),
        np.zeros((0, 3)),
        np.arange(11, dtype=np.int8),
        np.asfortranarray(generator.normal(size=(3, 4))),
        np.arange(20)[::3],
        np.zeros((4, 0), np.float32),
    )
    return Given("vectors", arrays)


def test_a_value_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = given()
    write_mapped(value, tmp_path / "value")
    found = read_mapped(tmp_path / "value")
    assert (found.name, found.nothing) == ("vectors", None)
    for array, expected in zip(found.arrays, value.arrays, strict=True):
        assert array.dtype == expected.dtype
        assert_array_equal(array, expected)
    assert read_mapped(tmp_path / "value") is found, "kept for the next task"


def test_arrays_are_views_that_nobody_can_change_and_outlive_the_file(tmp_path: Path) -> None:
    array = np.arange(100_000.0)
    write_mapped((array,), tmp_path / "value")
    (found,) = read_mapped(tmp_path / "value")
    (tmp_path / "value").unlink()
    assert not found.flags.owndata
    assert found.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1.0
    assert_array_equal(found, array)


def total(batches: object, value: SharedValue[Given]) -> object:
    for _ in batches:  # type: ignore[attr-defined]
        yield pa.RecordBatch.from_pydict({"total": [float(sum(array.sum() for array in value.value.arrays))]})


def total_in_a_task(spark: SparkSession, value: SharedValue[Given]) -> float:
    frame = spark.range(1, numPartitions=1).mapInArrow(lambda batches: total(batches, value), "total double")
    return float(frame.collect()[0][0])


def test_a_task_reads_the_file_and_none_is_left(spark: SparkSession) -> None:
    before = set(machine_folder().iterdir())
    with shared(spark, given()) as value:
        (folder,) = set(machine_folder().iterdir()) - before
        assert folder.name.startswith("shared-")
        assert value.outbox == folder
        assert total_in_a_task(spark, value) == pytest.approx(sum(array.sum() for array in given().arrays))
    assert set(machine_folder().iterdir()) <= before


def test_a_process_tidies_the_folder_once(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of values are shared in a training, and a folder of thousands of files takes its time."""
    tidied: list[int] = []
    monkeypatch.setattr(shared_value, "remove_stale", lambda: tidied.append(1))
    shared_value._tidy.cache_clear()
    for _ in range(3):
        with shared(spark, given()):
            assert tidied == [1]


def test_a_full_disk_takes_the_slower_way(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(folder: Path, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_value, "reject_full_disk", refuse)
    before = set(machine_folder().iterdir())
    with caplog.at_level("WARNING", logger="recsys_spark"), shared(spark, given()) as value:
        assert set(machine_folder().iterdir()) <= before
        assert value.outbox is None
        assert total_in_a_task(spark, value) == pytest.approx(sum(array.sum() for array in given().arrays))
    assert "values are broadcast" in caplog.text


def test_what_is_left_is_found_and_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert leave(array, None) is None
    first, second = leave(array, tmp_path), leave(array, tmp_path)
    assert first is not None
    assert first != second, "another attempt at a task has a file of its own"
    assert_array_equal(np.fromfile(first, np.float32).reshape(3, 4), array)

    def refuse(folder: Path, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_value, "reject_full_disk", refuse)
    assert leave(array, tmp_path) is None
