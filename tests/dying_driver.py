"""The command line, in a process that ends itself and the JVM it has started by kill -9, inside a chosen stage.

``python -m tests.dying_driver MOMENT pipeline --config FILE ...``; it has to lead a process group of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from recsys_spark import tables
from recsys_spark.cli import main
from recsys_spark.publish import stage as publish_stage
from recsys_spark.recommend import stage as recommend_stage
from recsys_spark.train.loop_state import LoopState

Function = Callable[..., Any]
# By when a Spark job of a few seconds is well under way.
_A_MOMENT = 0.3


def die() -> NoReturn:
    """Kill this process and the JVM; Python workers end with it."""
    assert os.getpgid(0) == os.getpid(), "others would be killed too"
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("dead")


def dies_within(function: Function, is_begun: Function | None = None) -> Function:
    """Return the function with a death in its middle: when it has begun, or else a moment after its call.

    One that is over before is not come back from: the stage never goes on.
    """

    def dying(*arguments: Any, **named: Any) -> Any:
        def watch() -> None:
            if is_begun is None:
                time.sleep(_A_MOMENT)
            while is_begun is not None and not is_begun(*arguments, **named):
                time.sleep(0.002)
            die()

        threading.Thread(target=watch, daemon=True).start()
        function(*arguments, **named)
        die()

    return dying


def dies_after(function: Function) -> Function:
    """Return the function with a death between its end and whatever comes next."""

    def dying(*arguments: Any, **named: Any) -> Any:
        function(*arguments, **named)
        die()

    return dying


def _in_table(name: str) -> None:
    """Die while Spark writes a table: when the job has made its temporary folder, and not moved its files yet."""
    write = tables.Table.write
    dying = dies_within(write, lambda table, frame, path: Path(path, "_temporary").exists())

    def chosen(self: tables.Table, frame: Any, path: str) -> None:
        (dying if self.name == name else write)(self, frame, path)

    tables.Table.write = chosen  # type: ignore[method-assign]


def _in_second_iteration() -> None:
    solve = LoopState.solve
    dying = dies_within(solve)

    def chosen(self: LoopState, iteration: int, rows: Any, fixed: Any) -> Any:
        is_then = iteration == 2 and rows.side.name == "items"
        return (dying if is_then else solve)(self, iteration, rows, fixed)

    LoopState.solve = chosen  # type: ignore[method-assign]


def _in_lists() -> None:
    recommend_stage.write_lists = dies_within(recommend_stage.write_lists)


def _in_gate() -> None:
    publish_stage.judge = dies_within(publish_stage.judge)


def _before_log() -> None:
    publish_stage.write_manifest = dies_after(publish_stage.write_manifest)


def _after_log() -> None:
    publish_stage.publish_run = dies_after(publish_stage.publish_run)


# In the order in which a night gets there; the word before the colon is the stage.
MOMENTS: dict[str, Callable[[], None]] = {
    "ingest: while ratings are written": lambda: _in_table("ratings"),
    "index: while indexed ratings are written": lambda: _in_table("indexed_ratings"),
    "train: in the second iteration": _in_second_iteration,
    "recommend: while lists are made": _in_lists,
    "recommend: while the table is written": lambda: _in_table("recommendations"),
    "evaluate: while metrics are written": lambda: _in_table("metrics"),
    "publish: while the gate looks": _in_gate,
    "publish: between manifest and log": _before_log,
    "publish: between log and record": _after_log,
}

if __name__ == "__main__":
    MOMENTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
