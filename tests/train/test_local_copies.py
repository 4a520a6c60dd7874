from __future__ import annotations

import secrets
import shutil
from collections import namedtuple
from collections.abc import Iterator

import numpy as np
import pytest

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.machine_folder import machine_folder
from recsys_spark.train import local_copies
from recsys_spark.train.local_copies import open_copy, remove_copies, save_copy

ROWS, COLUMNS = np.array([5, 1, 5]), np.array([2, 9, 0])
VALUES, WEIGHTS = np.array([0.5, -2, 3], np.float32), np.array([1, 2, 0.5], np.float32)


@pytest.fixture
def name() -> Iterator[str]:
    made = secrets.token_hex(8)
    yield made
    remove_copies(made)


def test_a_copy_that_lost_a_file_is_no_copy(name: str) -> None:
    for number, block in enumerate(
        (build_csr_block(ROWS, COLUMNS, VALUES), build_csr_block(ROWS, COLUMNS, VALUES, WEIGHTS))
    ):
        save_copy(name, number, block)
        held = open_copy(name, number)
        assert held is not None
        np.testing.assert_array_equal(held.column_index, block.column_index)
        assert (held.weights is None) == (block.weights is None)
    (machine_folder() / name / "block-1" / "weights.npy").unlink()
    assert open_copy(name, 1) is None


def test_a_copy_of_other_bytes_is_no_copy(name: str) -> None:
    save_copy(name, 0, build_csr_block(ROWS, COLUMNS, VALUES))
    changed = machine_folder() / name / "block-0" / "values.npy"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert open_copy(name, 0) is None


def test_a_full_disk_costs_the_copy_alone(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as nearly_full:
        nearly_full.setattr(shutil, "disk_usage", lambda path: usage(10**9, 960 * 10**6, 40 * 10**6))
        save_copy(name, 0, build_csr_block(ROWS, COLUMNS, VALUES))
    assert open_copy(name, 0) is None
    assert "block 0 has no copy on this machine" in caplog.text

    def fail(path: object, array: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(local_copies.np, "save", fail)
        save_copy(name, 1, build_csr_block(ROWS, COLUMNS, VALUES))
    assert open_copy(name, 1) is None
    assert "No space left on device" in caplog.text
    assert not list((machine_folder() / name).iterdir()), "what was begun is removed"
