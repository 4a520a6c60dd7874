"""Tasks that stay: in local mode one Spark job serves many half-iterations, one call after the other.

Spark takes about 0.1 s to plan and start a job and to collect its results, whatever the job does; a half-iteration over
a million ratings takes less. Where driver and workers are on one machine, the tasks of a job can just as well wait for
what the driver asks next.
"""

from __future__ import annotations

import pickle
import shutil
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
from pyspark import InheritableThread, cloudpickle
from pyspark.sql import SparkSession

from recsys_spark.errors import RecsysError
from recsys_spark.job_labels import current_label, labelled_jobs
from recsys_spark.machine_folder import machine_folder
from recsys_spark.session import default_parallelism, is_connect, is_one_machine

BlockTask = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""A worker function of ``mapInArrow``: batches of ``block int`` -> results."""

# A task that nobody calls for so long ends: another job may be waiting for its core. The next call starts tasks anew.
_IDLE_SECONDS = 2.0
# What the system takes as the address of a socket, at most.
_LONGEST_ADDRESS = 100
_SERVED_SCHEMA = "calls long"


class StandingTasks:
    """The tasks of one Spark job, to be called many times; started by the first call.

    While they stand, they occupy the session's cores: `release` them before another job, which would else wait until
    they find themselves idle. A task that dies is started again by Spark as often as any task, and its block is done
    again.

    Parameters
    ----------
    spark : SparkSession
        In local mode.
    """

    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark
        self._job: _Job | None = None

    def map_blocks(self, numbers: Sequence[int], work: BlockTask) -> pa.Table:
        """Call a worker function once for every block, and return all results, in any order.

        Parameters
        ----------
        numbers : sequence of int
            Of blocks, at least one; those that take long first.
        work : callable

        Returns
        -------
        pyarrow.Table

        Raises
        ------
        Exception
            What Spark raises where a task fails for good.

        Notes
        -----
        No shuffle. Results come to the driver past the JVM.
        """
        try:
            return pa.concat_tables(self._results(deque(numbers), _pickled(work)))
        except BaseException:
            self._cancel()
            raise

    def _results(self, waiting: deque[int], call: bytes) -> Iterator[pa.Table]:
        """Hand out blocks to tasks that are free, until all are done."""
        busy: dict[Connection, int] = {}
        while waiting or busy:
            if self._job is None:
                self._job = _Job(self._spark, min(default_parallelism(self._spark), len(waiting) + len(busy)))
            job = self._job
            while waiting and job.free:
                connection = job.free.pop()
                if _has_sent(connection, pickle.dumps((call, waiting[0]))):
                    busy[connection] = waiting.popleft()
            for ready in wait([job.listener, job.ended, *busy]):
                if ready is job.ended:
                    # Its tasks have found themselves idle, or it failed or was cancelled: then this raises.
                    waiting.extendleft(busy.values())
                    busy.clear()
                    self.release()
                elif ready is job.listener:
                    job.accept()
                elif ready in busy:
                    assert isinstance(ready, Connection)
                    number, result = busy.pop(ready), _received(ready)
                    if result is None:
                        waiting.appendleft(number)
                    else:
                        job.free.append(ready)
                        yield result

    def release(self) -> None:
        """Let the tasks end, and wait until their cores are free."""
        job, self._job = self._job, None
        if job is not None:
            job.end()

    def _cancel(self) -> None:
        """End the tasks even where they are at work, and do not wait for them."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()


class _Job:
    """A running job, the connections to those of its tasks that are free, and what tells of its end."""

    def __init__(self, spark: SparkSession, n_tasks: int) -> None:
        self._spark = spark
        self._error: BaseException | None = None
        self._n_accepted = 0
        self._folder = Path(mkdtemp(prefix="tasks-", dir=machine_folder()))
        self.free: list[Connection] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(_address_in(self._folder))
        self.listener.listen()
        self.ended, self._tell = Pipe(duplex=False)
        title = f"{current_label(spark) or 'training'}, and what follows it"
        self._thread = InheritableThread(target=self._run, args=(n_tasks, title), daemon=True)
        self._thread.start()

    def _run(self, n_tasks: int, title: str) -> None:
        try:
            # Of this thread alone.
            self._spark.addTag(self._folder.name)
            stand = partial(stand_by, address=_address_in(self._folder))
            with labelled_jobs(self._spark, title):
                self._spark.range(0, n_tasks, 1, n_tasks).mapInArrow(stand, _SERVED_SCHEMA).toArrow()
        except BaseException as error:
            self._error = error
        finally:
            self._tell.send_bytes(b"ended")

    def accept(self) -> None:
        """Take the connection of a task that has started."""
        self.free.append(Connection(self.listener.accept()[0].detach()))
        self._n_accepted += 1

    def end(self) -> None:
        """Tell the tasks that nothing comes any more; return when the job is over, and raise what it raised."""
        self._hang_up()
        self._thread.join()
        if self._error is not None:
            raise self._error
        if not self._n_accepted:
            raise RecsysError(
                f"no task came to {self._folder}, through which it is called",
                where="train.standing_tasks",
                remedy="set train.standing_tasks: false",
            )

    def cancel(self) -> None:
        """End the job as it is."""
        self._hang_up()
        if self._thread.is_alive():
            self._spark.interruptTag(self._folder.name)

    def _hang_up(self) -> None:
        self.listener.close()
        for connection in self.free:
            connection.close()
        self.free.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def can_stand(spark: SparkSession) -> bool:
    """Return whether tasks can be called past Spark: where they are on the driver's machine."""
    if is_connect(spark) or not is_one_machine(spark) or not hasattr(socket, "AF_UNIX"):
        return False
    try:
        return len(_address_in(machine_folder() / "tasks-12345678")) <= _LONGEST_ADDRESS
    except OSError:
        return False


def stand_by(batches: Iterator[pa.RecordBatch], address: str) -> Iterator[pa.RecordBatch]:
    """Worker: do what the driver asks for, until it hangs up or asks for nothing for long; return how many calls."""
    for _ in batches:
        connection = _reach(address)
        if connection is None:
            continue
        n_calls = 0
        with connection:
            while connection.poll(_IDLE_SECONDS) and _has_answered(connection):
                n_calls += 1
        yield pa.RecordBatch.from_pydict({"calls": pa.array([n_calls], pa.int64())})


def _reach(address: str) -> Connection | None:
    """Worker: connect to the driver; None where it waits no more."""
    with socket.socket(socket.AF_UNIX) as reached:
        try:
            reached.connect(address)
        except (ConnectionError, FileNotFoundError):
            return None
        return Connection(reached.detach())


def _has_answered(connection: Connection) -> bool:
    """Worker: do one call; False where the driver has hung up."""
    try:
        call, number = pickle.loads(connection.recv_bytes())  # noqa: S301 (through a folder of this user alone)
    except (EOFError, ConnectionError):
        return False
    work: BlockTask = pickle.loads(call)  # noqa: S301 (as above)
    block = pa.RecordBatch.from_pydict({"block": pa.array([number], pa.int32())})
    result = pa.Table.from_batches(work(iter([block])))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, result.schema) as stream:
        stream.write_table(result)
    return _has_sent(connection, sink.getvalue())


def _has_sent(connection: Connection, message: Any) -> bool:
    """Send a message; False, and the connection closed, where nobody is at its other end."""
    try:
        connection.send_bytes(message)
    except OSError:
        connection.close()
        return False
    return True


def _received(connection: Connection) -> pa.Table | None:
    """Return a task's result; None, and the connection closed, where the task is gone."""
    try:
        message = connection.recv_bytes()
    except (EOFError, OSError):
        connection.close()
        return None
    return pa.ipc.open_stream(message).read_all()


def _pickled(work: BlockTask) -> bytes:
    # As Spark does: also functions that only the driver's main module has.
    pickled: bytes = cloudpickle.dumps(work)  # type: ignore[no-untyped-call]
    return pickled


def _address_in(folder: Path) -> str:
    return str(folder / "calls")
