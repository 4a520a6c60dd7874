from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.method_choice import DUAL_MAX_LENGTH, Method, choose_methods

LENGTHS = np.array([8, 16, 32, 64, 128, 512, 2048, 16384, 32768])


def choose(width, solver="auto", *, has_start=False, is_positive=True):
    return choose_methods(LENGTHS, width, solver, has_start=has_start, cg_steps=3, is_positive=is_positive).tolist()


@pytest.mark.parametrize("width", [33, 65, 129])
def test_auto_takes_the_smaller_system(width):
    chosen = choose(width)
    assert [method == Method.DUAL for method in chosen] == [length < 0.8 * width for length in LENGTHS]
    assert Method.CG not in chosen
    assert set(choose(width, is_positive=False)) == {Method.DIRECT}


def test_auto_takes_conjugate_gradients_only_from_a_start_and_where_much_cheaper():
    assert Method.CG not in choose(4, has_start=True)
    wide = choose(129, has_start=True)
    assert set(wide[2:-1]) == {Method.CG}
    assert wide[-1] == Method.DIRECT  # beyond the ladder's top


def test_forced_dual_gives_up_on_long_rows():
    assert choose(65, "dual") == [Method.DUAL if length <= DUAL_MAX_LENGTH else Method.DIRECT for length in LENGTHS]
