"""Errors that a user can act on, each with the exit code of the command that meets it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FROM_WORKER = re.compile(r"recsys_spark\.errors\.(\w+): (.*)", re.DOTALL)
_UNREADABLE = re.compile(
    r"\[(?:FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER|CANNOT_MERGE_SCHEMAS|FAILED_TO_PARSE(?!_TOO))[\w.]*\] ([^\n]*)"
)
_NO_ROOM = re.compile(r"[^\n]*No space left on device[^\n]*")
_NO_MEMORY = re.compile(
    r"[^\n]*(?:MemoryError|Python worker exited unexpectedly|java\.lang\.OutOfMemoryError|Cannot allocate memory)[^\n]*"
)
_CAUSE = re.compile(r"Caused by: [\w.$]*?(\w+(?:Exception|Error): [^\n]*)")
_FILE_OF_MESSAGE = re.compile(r"\b(?:file:/+|\w+://)[^\s'\"]+")
_FILE_OF_HISTORY = re.compile(r"/history/parts/[^/]+/event_date(?:=|%3D)(\d{4}-\d\d-\d\d)/")
_END_OF_WORKER_TRACE = re.compile(r"\n\s*(?:at org\.apache|at java\.|Driver stacktrace|JVM stacktrace|\n)")


class RecsysError(Exception):
    """Something went wrong that the message explains.

    Parameters
    ----------
    what : str
        What happened, one sentence.
    where, got, allowed, remedy : str, optional
        File, field or row; the offending value; what would be accepted; what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", got: str = "", allowed: str = "", remedy: str = "") -> None:
        parts = [("where", where), ("got", got), ("allowed", allowed), ("remedy", remedy)]
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in parts if text)]))

    def __repr__(self) -> str:
        """Return the message in one line."""
        return f"{type(self).__name__}: {'; '.join(line.strip() for line in str(self).splitlines())}"


class ConfigError(RecsysError):
    """The configuration or the command line cannot be used (exit code 2)."""

    exit_code = 2


class ContractError(RecsysError):
    """The data break their contract, or a table did not pass the gate (exit code 3)."""

    exit_code = 3


class NothingToReadError(ContractError):
    """Every file of a log is empty."""


class NumericalError(RecsysError):
    """The arithmetic went wrong: not finite, or an objective that rose (exit code 4)."""

    exit_code = 4


class RowError(NumericalError):
    """The solution of one row is not finite.

    Attributes
    ----------
    side : {"users", "items"}
    row : int
        Its index.
    """

    def __init__(self, what: str, side: str, row: int, *, where: str = "") -> None:
        super().__init__(what, where=where)
        self.side, self.row = side, row


class DamagedFileError(RecsysError):
    """A file of a run is not what was written (exit code 1)."""


class ShapeError(RecsysError):
    """Arrays that do not fit together: a defect in the calling code (exit code 1)."""


def comes_from(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Return whether an error is of one of these kinds, or came up while one of them was dealt with."""
    return any(isinstance(each, kinds) for each in with_causes(error))


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it came from: click, for one, makes another one of Ctrl-C."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__context__


def error_from_worker(text: str) -> RecsysError | None:
    """Return the project's own error that a Python worker raised, from Spark's message about it.

    Parameters
    ----------
    text : str
        The message of the exception that reached the driver; it holds the worker's traceback.

    Returns
    -------
    RecsysError or None
        None where the worker did not raise an error of this project.
    """
    found = _FROM_WORKER.search(text)
    if not found:
        return None
    kind = globals().get(found.group(1))
    if not (isinstance(kind, type) and issubclass(kind, RecsysError)):
        return None
    return kind(_END_OF_WORKER_TRACE.split(found.group(2))[0].rstrip())


def error_from_reader(text: str) -> ContractError | None:
    """Return an error that names the file which Spark could not read, from Spark's message about it.

    Parameters
    ----------
    text : str
        The message of the exception that reached the driver.

    Returns
    -------
    ContractError or None
        None where something else went wrong.
    """
    found = _UNREADABLE.search(text)
    if not found:
        return None
    file = _FILE_OF_MESSAGE.search(text, found.start())
    causes = _CAUSE.findall(text)
    where = file.group().rstrip(".,") if file else ""
    kept = _FILE_OF_HISTORY.search(where)
    remedy = "compare it with its source (size, gzip -t, the columns' types), put a whole one there and run again"
    if kept:
        remedy = (
            f"run again: a run that ingests writes {kept[1]} again where the log still has its rows, and says what to "
            "do where it has not"
        )
    return ContractError(
        "a file cannot be read: it is cut off, damaged, or unlike the others of its folder",
        where=where,
        got=causes[-1].strip() if causes else found.group(1).strip(),
        remedy=remedy,
    )


def error_from_full_disk(text: str, then: str) -> RecsysError | None:
    """Return an error that says what to do about a full disk, from the message of what failed on it, or None.

    Parameters
    ----------
    text : str
        The message.
    then : str
        What to do when there is room: how the command goes on.
    """
    found = _NO_ROOM.search(text)
    if not found:
        return None
    return RecsysError(
        "no room is left on a disk; readers keep what they have",
        got=found.group().strip(),
        remedy="make room where the runs lie (recsys-spark gc --keep K) or where Spark keeps its own files "
        f"(spark.local.dir), then {then}",
    )


def error_from_lack_of_memory(text: str, then: str) -> RecsysError | None:
    """Return an error that says what to do where memory has run out, from the message of what failed of it, or None.

    A worker that is gone without a word is taken for one: the system ends what takes too much.

    Parameters
    ----------
    text : str
        The message.
    then : str
        What to do when there is more: how the command goes on.
    """
    found = _NO_MEMORY.search(text)
    if not found:
        return None
    return RecsysError(
        "memory has run out, or a worker was killed; readers keep what they have",
        got=found.group().strip(),
        remedy="give Spark more (spark.executor.memoryOverhead, spark.executor.pyspark.memory, spark.driver.memory), "
        "fewer tasks at once (spark.executor.cores), or smaller pieces (spark.sql.shuffle.partitions, train.n_blocks; "
        f"recsys-spark plan), then {then}",
    )
