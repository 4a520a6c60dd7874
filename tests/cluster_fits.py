"""A job for a cluster that fits twice with each exchange: undisturbed, and with an executor that dies."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recsys_spark.kernels import hot_rows
from recsys_spark.session import build_session
from recsys_spark.train import half_iteration, route
from recsys_spark.train.loop_state import LoopState
from tests import dying_executor
from tests.small_fits import arrays_of, fit

_SOLVE = LoopState.solve


def arm_in_second_iteration(flag: Path) -> None:
    """See that an executor dies while the items of the second iteration are solved."""

    def solve(self: LoopState, iteration: int, rows: Any, fixed: Any) -> Any:
        if iteration == 2 and rows.side.name == "items":
            flag.touch()
        return _SOLVE(self, iteration, rows, fixed)

    LoopState.solve = solve  # type: ignore[method-assign]


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    session = build_session("recsys-cluster-fits")
    half_iteration.solve_from_copies = partial(dying_executor.solve_from_copies, flag=str(target / "replicate.armed"))
    route.solve_routed = partial(dying_executor.solve_routed, flag=str(target / "route.armed"))
    # Rows with more than nine ratings are split, and the dead executor had some of their pieces.
    hot_rows.HOT_FLOOR = 9
    found: dict[str, np.ndarray] = {}
    for exchange in ("replicate", "route"):
        arm_in_second_iteration(target / f"{exchange}.armed")
        found |= arrays_of(fit(session, target, exchange), exchange)
        assert (target / f"{exchange}.fired").exists(), "no executor has died"
    np.savez(target / "arrays.npz", **found)
    session.stop()
