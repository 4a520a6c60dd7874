"""Tasks that stay: in local mode one Spark job serves many half-iterations, one call after the other.

Spark takes about 0.1 s to plan and start a job and to collect its results, whatever the job does; a half-iteration over
a million ratings takes less. Where driver and workers are on one machine, the tasks of a job can just as well wait for
what the driver asks next.
"""

from __future__ import annotations

import pickle
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
from recsys_spark.session import cores_of_machine, is_connect, is_one_machine

BlockTask = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""A worker function of ``mapInArrow``: batches of ``block int`` -> results."""

# A task that nobody calls for so long ends: another job may be waiting for its core. The next call starts tasks anew.
_IDLE_SECONDS = 2.0
# Cores are given to whoever waits for them this often, which takes the 0.1 s of a job.
_LONGEST_STAND = 5.0
_JOBS_WITHOUT_RESULT = 3
_SERVED_SCHEMA = "calls long"


class StandingTasks:
    """The tasks of one Spark job, to be called many times; started by the first call.

    While they stand, they occupy the session's cores: `release` them before another job. One that others start waits
    for the end of a call after 5 s, or until the tasks find themselves idle for 2 s. A task that dies is started again
    by Spark as often as any task, and its block is then done again.

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
            self._end_if_worn(len(numbers))
            results = pa.concat_tables(self._results(_Blocks(numbers, _pickled(work))))
            if self._job is not None and self._job.age > _LONGEST_STAND:
                self.release()
            return results
        except BaseException:
            self._cancel()
            raise

    def release(self) -> None:
        """Let the tasks end, and wait until their cores are free."""
        job, self._job = self._job, None
        if job is not None:
            job.end()

    def _end_if_worn(self, n_blocks: int) -> None:
        """End a job that was cancelled, has lost tasks, or has fewer than could be used now."""
        job = self._job
        if job is None:
            return
        if job.ended.poll():
            self._raise_error()
        elif job.has_lost_tasks() or job.n_tasks < self._most_tasks(n_blocks):
            self.release()

    def _results(self, blocks: _Blocks) -> Iterator[pa.Table]:
        """Hand out blocks to tasks that are free, until all are done."""
        n_tasks, n_fruitless = self._most_tasks(len(blocks.waiting)), 0
        while blocks.are_left:
            if self._job is None:
                if n_fruitless == _JOBS_WITHOUT_RESULT:
                    raise _no_results(n_fruitless)
                self._job = _Job(self._spark, n_tasks)
                n_fruitless += 1
            job = self._job
            blocks.hand_out(job.free)
            for ready in wait([job.listener, job.ended, *blocks.busy]):
                if ready is job.ended:
                    # Its tasks have found themselves idle, or it failed or was cancelled: then this raises.
                    blocks.take_back_all()
                    self._raise_error()
                    # What else was ready is closed now.
                    break
                if ready is job.listener:
                    job.accept()
                    blocks.take_back_lost()
                elif ready in blocks.busy:
                    assert isinstance(ready, Connection)
                    result = blocks.result_from(ready)
                    if result is not None:
                        job.free.append(ready)
                        n_fruitless = 0
                        yield result

    def _most_tasks(self, n_blocks: int) -> int:
        return min(cores_of_machine(self._spark), n_blocks)

    def _raise_error(self) -> None:
        """End the job, which is over, and raise what it raised."""
        job, self._job = self._job, None
        assert job is not None
        error = job.end()
        if error is not None:
            raise error

    def _cancel(self) -> None:
        """End the tasks even where they are at work, and do not wait for them."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()


class _Blocks:
    """The blocks of one call: those that wait for a task, those that one works on, and those whose task is gone."""

    def __init__(self, numbers: Sequence[int], call: bytes) -> None:
        self._call = call
        self.waiting, self._lost = deque(numbers), list[int]()
        self.busy: dict[Connection, int] = {}

    @property
    def are_left(self) -> bool:
        """Whether some are not done."""
        return bool(self.waiting or self.busy or self._lost)

    def hand_out(self, free: list[Connection]) -> None:
        """Let free tasks begin."""
        while self.waiting and free:
            connection = free.pop()
            if _has_sent(connection, pickle.dumps((self._call, self.waiting[0]))):
                self.busy[connection] = self.waiting.popleft()

    def result_from(self, connection: Connection) -> pa.Table | None:
        """Return a task's result; None where the task is gone, and its block lost."""
        number, result = self.busy.pop(connection), _received(connection)
        if result is None:
            self._lost.append(number)
        return result

    def take_back_lost(self) -> None:
        """Let lost blocks wait for a task that has just begun: what one died of is not for the others."""
        self.waiting.extend(self._lost)
        self._lost.clear()

    def take_back_all(self) -> None:
        """Let all blocks that are not done wait for another job."""
        self.waiting.extend(self.busy.values())
        self.busy.clear()
        self.take_back_lost()


class _Job:
    """A running job, the connections to those of its tasks that are free, and what tells of its end."""

    def __init__(self, spark: SparkSession, n_tasks: int) -> None:
        self._spark, self.n_tasks = spark, n_tasks
        self._error: BaseException | None = None
        self._started = time.monotonic()
        self.free: list[Connection] = []
        self._connections: list[Connection] = []
        self._folder, self.listener = _listen()
        self.ended, self._tell = Pipe(duplex=False)
        title = f"{current_label(spark) or 'training'}, and what follows it"
        self._thread = InheritableThread(target=self._run, args=(title,), daemon=True)
        self._thread.start()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    def has_lost_tasks(self) -> bool:
        """Whether tasks that were free have hung up: between calls they have nothing else to say."""
        return bool(wait(self.free, 0))

    def _run(self, title: str) -> None:
        try:
            # Of this thread alone.
            self._spark.addTag(self._folder.name)
            stand = partial(stand_by, address=_address_in(self._folder), idle_seconds=_IDLE_SECONDS)
            with labelled_jobs(self._spark, title):
                self._spark.range(0, self.n_tasks, 1, self.n_tasks).mapInArrow(stand, _SERVED_SCHEMA).toArrow()
        except BaseException as error:
            self._error = error
        finally:
            self._tell.send_bytes(b"ended")

    def accept(self) -> None:
        """Take the connection of a task that has started."""
        reached, _ = self.listener.accept()
        connection = _connection(reached)
        self.free.append(connection)
        self._connections.append(connection)

    def end(self) -> BaseException | None:
        """Tell the tasks that nothing comes any more; when the job is over, return what it raised."""
        self._hang_up()
        self._thread.join()
        return self._error

    def cancel(self) -> None:
        """End the job as it is."""
        self._hang_up()
        # There may be no Spark any more; what went wrong before is what is to be told.
        with suppress(Exception):
            self._spark.interruptTag(self._folder.name)

    def _hang_up(self) -> None:
        self.listener.close()
        for connection in self._connections:
            connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def can_stand(spark: SparkSession) -> bool:
    """Return whether tasks can be called past Spark: on the driver's machine, where there can be sockets."""
    if is_connect(spark) or not is_one_machine(spark) or not hasattr(socket, "AF_UNIX"):
        return False
    if spark.conf.get("spark.python.worker.idleTimeoutSeconds", None) not in (None, "0", "0s"):
        # A task that waits for a call would be taken for one that is stuck.
        return False
    try:
        folder, listener = _listen()
    except OSError:
        return False
    listener.close()
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _listen() -> tuple[Path, socket.socket]:
    """Return a new folder, and a socket in it that waits for tasks."""
    folder = Path(mkdtemp(prefix="tasks-", dir=machine_folder()))
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_address_in(folder))
        listener.listen()
    except OSError:
        # Its name may be too long for an address, or the file system may have no sockets.
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, listener


def _connection(reached: socket.socket) -> Connection:
    # Others may have set a default time limit, and with it that nothing waits.
    reached.setblocking(True)
    return Connection(reached.detach())


def _no_results(n_jobs: int) -> RecsysError:
    return RecsysError(
        f"{n_jobs} jobs, one after the other, have ended without a result",
        where="train.standing_tasks",
        remedy="set train.standing_tasks: false, and read what Spark logged",
    )


def stand_by(batches: Iterator[pa.RecordBatch], address: str, idle_seconds: float) -> Iterator[pa.RecordBatch]:
    """Worker: do what the driver asks for, until it hangs up or asks for nothing for long; return how many calls."""
    for _ in batches:
        connection = _reach(address, idle_seconds)
        if connection is None:
            continue
        n_calls = 0
        with connection:
            while connection.poll(idle_seconds) and _has_answered(connection):
                n_calls += 1
        yield pa.RecordBatch.from_pydict({"calls": pa.array([n_calls], pa.int64())})


def _reach(address: str, seconds: float) -> Connection | None:
    """Worker: connect to the driver; None where it waits no more."""
    with socket.socket(socket.AF_UNIX) as reached:
        reached.settimeout(seconds)
        try:
            reached.connect(address)
        except (ConnectionError, FileNotFoundError, TimeoutError, BlockingIOError):
            return None
        return _connection(reached)


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
    except ConnectionError:
        connection.close()
        return False
    return True


def _received(connection: Connection) -> pa.Table | None:
    """Return a task's result; None, and the connection closed, where the task is gone."""
    try:
        message = connection.recv_bytes()
    except (EOFError, ConnectionError):
        connection.close()
        return None
    return pa.ipc.open_stream(message).read_all()


def _pickled(work: BlockTask) -> bytes:
    # As Spark does: also functions that only the driver's main module has.
    pickled: bytes = cloudpickle.dumps(work)  # type: ignore[no-untyped-call]
    return pickled


def _address_in(folder: Path) -> str:
    return str(folder / "calls")
