"""One value that every task reads, such as the fixed side of the ``replicate`` exchange."""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy.typing as npt
from pyspark import SparkFiles
from pyspark.sql import SparkSession

from recsys_spark.machine_folder import machine_folder, reject_full_disk, remove_stale
from recsys_spark.session import is_connect, is_one_machine

log = logging.getLogger(__name__)

T = TypeVar("T")


# Larger values would make a plan that Spark Connect, with its limit per message, might refuse.
_LARGEST_IN_FUNCTION = 8 << 20


# Of arrays in a mapped file, for the widest vector instructions.
_ALIGNMENT = 64


class SharedValue(Generic[T]):
    """A value on its way to tasks: in the function, by broadcast, in a file of the session, or in one to be mapped."""

    def __init__(
        self, value: T | None = None, *, broadcast: Any = None, file: str | None = None, mapped: Path | None = None
    ) -> None:
        self._value, self._broadcast, self._file, self._mapped = value, broadcast, file, mapped

    @property
    def value(self) -> T:
        """The value, in a task; its arrays may be read-only."""
        held: Any = self._value
        if self._broadcast is not None:
            held = self._broadcast.value
        elif self._file is not None:
            held = _content_of(self._file)
        elif self._mapped is not None:
            held = read_mapped(self._mapped)
        value: T = held
        return value

    @property
    def outbox(self) -> Path | None:
        """Where tasks may leave large results for the driver, see `leave`; None where it could not read them."""
        return None if self._mapped is None else self._mapped.parent


@contextmanager
def shared(spark: SparkSession, value: T) -> Iterator[SharedValue[T]]:
    """Send a value to every task that runs inside the ``with`` block, and remove it everywhere afterwards.

    Where driver and workers are on one machine, workers map a file, so that arrays are copied once, by the driver, and
    held once, by the system, whatever the number of workers. Elsewhere the value is broadcast: not by PySpark itself
    with the function, which would never delete the file that it leaves on the driver: two copies of the factors per
    iteration. A broadcast of our own can be destroyed. Spark Connect has no broadcasts; there a small value is part of
    the function, and a large one goes as a file, in pieces that fit into its messages. Such files stay with the session
    until it ends.
    """
    if is_connect(spark):
        yield _over_connect(spark, value)
        return
    file = _mapped_file(value) if is_one_machine(spark) else None
    if file is not None:
        try:
            yield SharedValue(mapped=file)
        finally:
            shutil.rmtree(file.parent, ignore_errors=True)
        return
    broadcast = spark.sparkContext.broadcast(value)
    try:
        yield SharedValue(broadcast=broadcast)
    finally:
        broadcast.destroy()


def _mapped_file(value: object) -> Path | None:
    """Write a value to a file of this machine; None, after a warning, where the disk will not have it."""
    folder: Path | None = None
    try:
        place = machine_folder()
        _tidy(place)
        folder = place / f"shared-{secrets.token_hex(8)}"
        folder.mkdir()
        write_mapped(value, folder / "value")
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        log.warning("values are broadcast, which is slower than files that workers map: %s", error)
        return None
    return folder / "value"


@lru_cache(maxsize=1)
def _tidy(place: Path) -> None:
    """Remove what killed jobs left long ago, once in the life of this process: trainings tidy up at their ends, too."""
    remove_stale()


def leave(array: npt.NDArray[Any], outbox: Path | None) -> Path | None:
    """Worker: write an array where the driver finds it, instead of sending it through the JVM.

    Returns
    -------
    Path or None
        For ``numpy.fromfile``, while the value is shared; None where there is no outbox, or no room in it.
    """
    if outbox is None:
        return None
    file = outbox / secrets.token_hex(8)
    try:
        reject_full_disk(outbox, array.nbytes)
        array.tofile(file)
    except OSError:
        return None
    return file


def write_mapped(value: object, file: Path) -> None:
    """Write a value, its arrays apart from the rest and aligned, so that `read_mapped` need not copy them.

    Raises
    ------
    OSError
        Where the disk is full or nearly so.
    """
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(value, 5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    head = pickle.dumps((rest, [array.nbytes for array in arrays]))
    reject_full_disk(file.parent, len(head) + sum(array.nbytes + _ALIGNMENT for array in arrays))
    with file.open("wb") as stream:
        stream.write(head)
        for array in arrays:
            stream.seek(_aligned(stream.tell()))
            stream.write(array)
        # Nothing would be mapped of an empty array at the end.
        stream.truncate(_aligned(stream.tell()))


# The last value that this process has read, for its next tasks.
_read: dict[Path, Any] = {}


def read_mapped(file: Path) -> Any:
    """Return the value in a file of `write_mapped`; arrays are views of the file, and read-only.

    A worker keeps the last one for its next tasks; the file may have been removed by then.
    """
    if file not in _read:
        # Before another is mapped: a worker's addresses may be limited to what one takes.
        _read.clear()
        _read[file] = _map(file)
    with suppress(OSError):
        # Its age is that of its last use, for those who tidy up.
        os.utime(file.parent)
    return _read[file]


def _map(file: Path) -> Any:
    with file.open("rb") as stream:
        rest, lengths = pickle.load(stream)  # noqa: S301 (in a folder that no other user can write to)
        end = stream.tell()
        content = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    arrays = []
    for length in lengths:
        start = _aligned(end)
        end = start + length
        arrays.append(content[start:end])
    return pickle.loads(rest, buffers=arrays)  # noqa: S301 (as above)


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


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
