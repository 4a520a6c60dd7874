from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.runs import lease as module
from recsys_spark.runs.lease import Lease, held
from recsys_spark.storage import LocalStorage, Storage
from recsys_spark.storage.numbered_log import NumberedLog
from tests.conftest import ROOT
from tests.faulty_storage import StorageFault, WatchedStorage, fails_at

TERM = timedelta(minutes=10)
STORAGE = LocalStorage()


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def lease(folder: Path, clock: Clock, storage: Storage = STORAGE) -> Lease:
    return Lease(storage, str(folder), TERM, clock)


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    clock = Clock()
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.take()
    first.require()
    with pytest.raises(RecsysError, match=r"another process is working on this run[\s\S]*until 2026-01-05T00:10:00"):
        second.take()
    first.release()
    second.take()
    second.require()


def test_what_was_given_up_is_free_for_other_machines(tmp_path: Path) -> None:
    clock = Clock()
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    second._owner = {**second._owner, "host": "another machine"}
    first.take()
    with pytest.raises(RecsysError, match="another process is working"):
        second.take()
    first.release()
    second.take()


def test_a_process_that_could_not_give_it_up_may_take_it_again(tmp_path: Path) -> None:
    def fail_to_release(n: int, name: str, arguments: tuple[object, ...]) -> None:
        if '"released": true' in str(arguments):
            raise StorageFault("gone")

    clock = Clock()
    first = lease(tmp_path, clock, WatchedStorage(before=fail_to_release))
    first.take()
    with pytest.raises(StorageFault):
        first.release()
    lease(tmp_path, clock).take()


def test_an_owner_that_is_not_heard_of_loses_it_and_notices(tmp_path: Path) -> None:
    clock = Clock()
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.take()
    clock.time += TERM / 2
    first.renew()
    clock.time += TERM * 0.9
    with pytest.raises(RecsysError, match="another process is working"):
        second.take()
    clock.time += TERM * 0.2
    second.take()
    first.renew()
    assert first.is_lost
    with pytest.raises(RecsysError, match="another process has taken over"):
        first.require()
    first.release()
    second.require()


def test_who_was_paused_does_not_come_back_after_the_other_has_finished(tmp_path: Path) -> None:
    clock = Clock()
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.take()
    clock.time += TERM * 2
    second.take()
    second.renew()
    second.release()
    first.renew()
    assert first.is_lost
    assert len(NumberedLog(STORAGE, str(tmp_path / "lease")).numbers()) == 1, "old entries are removed"


def test_a_clock_that_goes_back_takes_nothing_away(tmp_path: Path) -> None:
    clock = Clock()
    first, second = lease(tmp_path, clock), lease(tmp_path, clock)
    first.take()
    clock.time -= timedelta(days=400)
    first.renew()
    first.require()
    with pytest.raises(RecsysError, match="another process is working"):
        second.take()


def test_a_process_that_was_killed_keeps_nothing(tmp_path: Path) -> None:
    code = f"""
import time
from datetime import timedelta
from recsys_spark.runs.lease import Lease
from recsys_spark.storage import LocalStorage
Lease(LocalStorage(), {str(tmp_path)!r}, timedelta(days=1)).take()
print("taken", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "taken\n"
        with pytest.raises(RecsysError, match=f"process {owner.pid}"):
            Lease(STORAGE, str(tmp_path), TERM).take()
        owner.kill()
    Lease(STORAGE, str(tmp_path), TERM).take()


def take_in_process(folder: str, start: object, taken: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        Lease(STORAGE, folder, TERM).take()
    except RecsysError:
        return
    taken.put(1)  # type: ignore[attr-defined]
    time.sleep(2)


def test_of_many_that_try_at_once_one_gets_it(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    start, taken = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=take_in_process, args=(str(tmp_path), start, taken)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    assert taken.get(timeout=30) == 1
    for process in processes:
        process.join()
    assert taken.empty()


def test_held_renews_in_the_background_and_gives_up_at_the_end(tmp_path: Path) -> None:
    term = timedelta(seconds=0.3)
    with held(Lease(STORAGE, str(tmp_path), term), term) as mine:
        time.sleep(0.8)
        mine.require()
        assert NumberedLog(STORAGE, str(tmp_path / "lease")).numbers()[-1] >= 4
    Lease(STORAGE, str(tmp_path), TERM).take()


@pytest.mark.parametrize("after", [False, True])
def test_whichever_operation_fails_there_is_never_a_second_owner(tmp_path: Path, after: bool) -> None:
    for number in range(1, 12):
        folder, clock = tmp_path / str(number), Clock()
        first = lease(folder, clock, fails_at(number, after=after))
        try:
            first.take()
            first.renew()
            first.release()
        except StorageFault:
            pass
        clock.time += TERM * 2
        second, third = lease(folder, clock), lease(folder, clock)
        second.take()
        with pytest.raises(RecsysError):
            third.take()
        with pytest.raises((RecsysError, StorageFault)):
            first.require()


def test_the_other_owner_at_every_step(tmp_path: Path) -> None:
    counted = WatchedStorage()
    one = lease(tmp_path / "counted", Clock(), counted)
    one.take()
    for step in range(1, counted.n_operations + 1):
        folder, clock = tmp_path / str(step), Clock()
        other = lease(folder, clock)

        def others_first(n: int, name: str, arguments: object, step: int = step, other: Lease = other) -> None:
            if n == step:
                other.take()

        with pytest.raises(RecsysError, match="another process is working"):
            lease(folder, clock, WatchedStorage(before=others_first)).take()
        other.require()


def test_an_owner_whose_process_cannot_be_looked_at_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lease(tmp_path, clock).take()
    monkeypatch.setattr(module, "_HELD", set())
    for name, seen in (("_process_start", lambda pid: "running"), ("_host", lambda: "same-name pid:[2]")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, seen)
            # Another owner, who sees no more of the first one than that, or nothing.
            other = lease(tmp_path, clock)
            other._owner["pid"] = 1
            with pytest.raises(RecsysError, match="another process is working on this run"):
                other.take()


def test_a_damaged_lease_keeps_nobody_out_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    first = lease(tmp_path, clock)
    first.take()
    (tmp_path / "lease" / "00000001.json").write_text('{"owner": ')
    second = lease(tmp_path, clock)
    second.take()
    second.require()
    with pytest.raises(RecsysError, match="another process has taken over"):
        first.require()
