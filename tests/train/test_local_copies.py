from __future__ import annotations

import secrets

import numpy as np

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.train.local_copies import copies_root, open_copy, remove_copies, save_copy


def test_a_copy_that_lost_a_file_is_no_copy() -> None:
    rows, columns = np.array([5, 1, 5]), np.array([2, 9, 0])
    values, weights = np.array([0.5, -2, 3], np.float32), np.array([1, 2, 0.5], np.float32)
    name = secrets.token_hex(8)
    try:
        for number, block in enumerate(
            (build_csr_block(rows, columns, values), build_csr_block(rows, columns, values, weights))
        ):
            save_copy(name, number, block)
            held = open_copy(name, number)
            assert held is not None
            np.testing.assert_array_equal(held.column_index, block.column_index)
            assert (held.weights is None) == (block.weights is None)
        (copies_root() / name / "block-1" / "weights.npy").unlink()
        assert open_copy(name, 1) is None
    finally:
        remove_copies(name)
