"""Which way to solve a row, and what that takes, from its degree and the width alone."""

from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float64Array, Int64Array
from recsys_spark.kernels.degree_ladder import LADDER
from recsys_spark.kernels.subspace import SUBSPACE_SIZE

Solver = Literal["auto", "cholesky", "dual", "cg", "subspace", "gradient"]

DUAL_MAX_LENGTH = 2048
"""Beyond this many observations the dual's system is never worth forming."""

MAX_BATCH_FLOATS = 1 << 20
"""Of a batch, 4 MB: it stays in a core's caches from gathering to residuals, and NumPy's calls do not count.

Half as much took as long at width 64 on a core with little cache and 12 % longer on one with much, a quarter 20 to 35 %
longer.
"""

_CG_ADVANTAGE = 1.5


class Method(IntEnum):
    """One way to solve a row."""

    DUAL = 0
    DIRECT = 1
    CG = 2
    SUBSPACE = 3
    GRADIENT = 4
    NONNEGATIVE = 5


# What needs no choice: one method for rows of every length.
_FORCED: dict[str, Method] = {
    "cholesky": Method.DIRECT,
    "cg": Method.CG,
    "subspace": Method.SUBSPACE,
    "gradient": Method.GRADIENT,
}


def choose_methods(
    lengths: Int64Array,
    width: int,
    solver: Solver,
    *,
    has_start: bool,
    cg_steps: int,
    is_positive: bool,
    nonnegative: bool = False,
) -> Int64Array:
    """Choose a method for each row.

    Parameters
    ----------
    lengths : int64 array of shape (n_rows,)
        Padded lengths.
    width : int
        Entries of a row's vector.
    solver : {"auto", "cholesky", "dual", "cg", "subspace", "gradient"}
        "auto" takes the cheaper of the two exact methods, or conjugate gradients where there is a start to
        warm up from and they cost less than 1 / 1.5 of it: rows of middle length at large width. "dual" falls
        back to the normal equations beyond 2,048 observations and where a penalty is zero, since the identity
        divides by the penalties.
    has_start : bool
        Whether rows have a start.
    cg_steps : int
        Steps that conjugate gradients would take.
    is_positive : bool
        Whether all penalties are > 0.
    nonnegative : bool, default False
        Whether factors must be >= 0; then ``solver`` is not asked.

    Returns
    -------
    int64 array of shape (n_rows,)
        `Method` values.

    Raises
    ------
    ShapeError
        If ``solver`` is unknown.
    """
    if nonnegative:
        return np.full(len(lengths), Method.NONNEGATIVE)
    if solver in _FORCED:
        return np.full(len(lengths), _FORCED[solver])
    can_dual = (lengths <= DUAL_MAX_LENGTH) & is_positive
    if solver == "dual":
        return np.where(can_dual, Method.DUAL, Method.DIRECT)
    if solver != "auto":
        known = ", ".join(("auto", "dual", *_FORCED))
        raise ShapeError(f"solver must be one of {known}, got {solver!r}")
    costs = _costs(lengths.astype(np.float64), width, cg_steps)
    exact = np.where(can_dual & (costs.dual < costs.direct), Method.DUAL, Method.DIRECT)
    cheapest = np.where(exact == Method.DUAL, costs.dual, costs.direct)
    # Rows beyond the ladder form their normal equations anyway: the exact solution costs little more.
    can_cg = has_start & (lengths <= LADDER[-1])
    return np.where(can_cg & (costs.cg * _CG_ADVANTAGE < cheapest), Method.CG, exact)


def working_floats(lengths: Int64Array, methods: Int64Array, width: int) -> Int64Array:
    """Count what rows need while they are solved, in float32 numbers: int64 array of shape (n_rows,).

    The design, which the dual copies twice in float64 and weights copy once more; a float64 system, as given
    and factorised.
    """
    copies = np.where(methods == Method.DUAL, 5, 1)
    is_formed = np.isin(methods, (Method.DIRECT, Method.NONNEGATIVE))
    order = np.select([methods == Method.DUAL, is_formed], [lengths, width], 0)
    return np.asarray(copies * np.minimum(lengths, LADDER[-1]) * width + 4 * order**2)


def row_nanoseconds(
    lengths: Int64Array, methods: Int64Array, width: int, *, cg_steps: int, gradient_steps: int
) -> Float64Array:
    """Estimate the time that rows take on one core, for a forecast: within a factor of 2 or so.

    Parameters
    ----------
    lengths, methods : int64 arrays of shape (n_rows,)
        From `padded_lengths` and `choose_methods`.
    width : int
    cg_steps, gradient_steps : int

    Returns
    -------
    float64 array of shape (n_rows,)
    """
    wide = lengths.astype(np.float64)
    costs = _costs(wide, width, cg_steps)
    one_pass = 1500.0 + 1.3 * wide * width
    n_subspaces = width / min(width, SUBSPACE_SIZE)
    by_method = {
        Method.DUAL: costs.dual,
        Method.DIRECT: costs.direct,
        Method.CG: costs.cg,
        Method.SUBSPACE: n_subspaces * _costs(wide, min(width, SUBSPACE_SIZE), cg_steps).direct + one_pass,
        Method.GRADIENT: (gradient_steps + 1) * one_pass,
        # A sweep is width**2, and how many there are grows with the width.
        Method.NONNEGATIVE: costs.direct + 1.8 * width**3,
    }
    return np.asarray(np.select([methods == method for method in by_method], list(by_method.values())))


class _Costs(NamedTuple):
    """Time per row of each method, arrays of shape (n_rows,)."""

    dual: Float64Array
    direct: Float64Array
    cg: Float64Array


def _costs(lengths: Float64Array, width: int, cg_steps: int) -> _Costs:
    """Nanoseconds per row by method, fitted at widths 17 to 129 on one busy 2.5 GHz AVX-512 core.

    Only ratios matter. They are constants, not measured at run time, so that every run chooses alike.
    """
    return _Costs(
        dual=(0.08 * lengths + 16.0) * lengths * width + _solve_cost(lengths),
        direct=(0.035 * width + 5.0) * lengths * width + _solve_cost(np.full(lengths.shape, float(width))),
        cg=(cg_steps + 1) * (1500.0 + 1.3 * lengths * width),
    )


def _solve_cost(order: Float64Array) -> Float64Array:
    return np.asarray(1000.0 + 18.0 * order**2 + 0.08 * order**3)
