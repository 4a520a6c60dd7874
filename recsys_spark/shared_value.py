"""One value that every task reads: the ``replicate`` exchange of the fixed side."""

from __future__ import annotations

import pickle
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pyspark import SparkFiles
from pyspark.sql import SparkSession

from recsys_spark.session import is_connect

T = TypeVar("T")


# Larger values would make a plan that Spark Connect, with its limit per message, might refuse.
_LARGEST_IN_FUNCTION = 8 << 20


class SharedValue(Generic[T]):
    """A value that travels with the tasks' code: by broadcast; over Spark Connect in the function, or as a file."""

    def __init__(self, value: T | None = None, *, broadcast: Any = None, file: str | None = None) -> None:
        self._value, self._broadcast, self._file = value, broadcast, file

    @property
    def value(self) -> T:
        """The value, in a task."""
        held: Any = self._value
        if self._broadcast is not None:
            held = self._broadcast.value
        elif self._file is not None:
            held = _content_of(self._file)
        value: T = held
        return value


@contextmanager
def shared(spark: SparkSession, value: T) -> Iterator[SharedValue[T]]:
    """Send a value to every task that runs inside the ``with`` block, and remove it everywhere afterwards.

    PySpark would broadcast a large function by itself, but never delete the file it leaves on the driver:
    two copies of the factors per iteration. A broadcast of our own can be destroyed. Spark Connect has no
    broadcasts; there a small value is part of the function, and a large one goes as a file, in pieces that fit
    into its messages. Such files stay with the session until it ends.
    """
    if is_connect(spark):
        yield _over_connect(spark, value)
        return
    broadcast = spark.sparkContext.broadcast(value)
    try:
        yield SharedValue(broadcast=broadcast)
    finally:
        broadcast.destroy()


def lasting(spark: SparkSession, value: T) -> SharedValue[T]:
    """Send a value to every task of a frame that is returned to a caller, who may use it at any time.

    Spark forgets a broadcast when no frame needs it; the file of it on the driver stays until the session ends.
    """
    if is_connect(spark):
        return _over_connect(spark, value)
    return SharedValue(broadcast=spark.sparkContext.broadcast(value))


def _over_connect(spark: SparkSession, value: T) -> SharedValue[T]:
    if pickled_bytes(value) <= _LARGEST_IN_FUNCTION:
        return SharedValue(value)
    with tempfile.TemporaryDirectory(prefix="recsys_spark_") as folder:
        file = Path(folder) / f"shared-{secrets.token_hex(8)}.pickle"
        with file.open("wb") as stream:
            pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
        spark.addArtifacts(str(file), file=True)
    return SharedValue(file=file.name)


@lru_cache(maxsize=1)
def _content_of(file: str) -> Any:
    """Return what is in a file of the session; a worker keeps the last one for its next tasks."""
    with Path(SparkFiles.get(file)).open("rb") as stream:
        return pickle.load(stream)  # noqa: S301 (written above, by the session's own client)


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
