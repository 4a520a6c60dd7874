"""One value that every task reads: the ``replicate`` exchange of the fixed side."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pyspark.sql import SparkSession

T = TypeVar("T")


class SharedValue(Generic[T]):
    """A value that travels with the tasks' code: by broadcast, or inside the function over Spark Connect."""

    def __init__(self, value: T | None, broadcast: Any) -> None:
        self._value = value
        self._broadcast = broadcast

    @property
    def value(self) -> T:
        """The value, on the driver as in a task."""
        held: Any = self._value if self._broadcast is None else self._broadcast.value
        value: T = held
        return value


@contextmanager
def shared(spark: SparkSession, value: T) -> Iterator[SharedValue[T]]:
    """Send a value to every task that runs inside the ``with`` block, and remove it everywhere afterwards.

    PySpark would broadcast a large function by itself, but never delete the file it leaves on the driver:
    two copies of the factors per iteration. A broadcast of our own can be destroyed. Spark Connect has no
    broadcasts; there the value is part of the function.
    """
    context = _spark_context(spark)
    if context is None:
        yield SharedValue(value, None)
        return
    broadcast = context.broadcast(value)
    try:
        yield SharedValue(None, broadcast)
    finally:
        broadcast.destroy()


class _Count:
    """A file that keeps nothing but the number of bytes written to it."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def write(self, data: Any) -> int:
        written = memoryview(data).nbytes
        self.n_bytes += written
        return written


def pickled_bytes(value: object) -> int:
    """Return how many bytes a value is on its way to the workers, without making them."""
    counted = _Count()
    pickle.dump(value, counted, pickle.HIGHEST_PROTOCOL)
    return counted.n_bytes


def _spark_context(spark: SparkSession) -> Any:
    try:
        return spark.sparkContext
    except Exception:  # PySparkNotImplementedError or an attribute error, by version
        return None
