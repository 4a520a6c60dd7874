from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from threading import Semaphore, Thread

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.publish.retention import plan_removals, remove_all
from recsys_spark.publish.verification import verify
from recsys_spark.runs import publication_log
from recsys_spark.runs.publication_log import current_publication, pin_run, roll_back
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.storage import LocalStorage, Storage
from recsys_spark.storage.numbered_log import NumberedLog
from tests.faulty_storage import StorageFault, WatchedStorage, fails_at
from tests.stored_runs import STORAGE, make_old, published_run, write_run

DAYS = timedelta(days=1)
LATER = datetime.now(UTC) + 10 * DAYS


def removed(root: Path, keep: int, now: datetime = LATER, min_age: timedelta = 2 * DAYS) -> list[str]:
    return [
        Path(removal.path).name.removeprefix("run=")
        for removal in plan_removals(str(root), STORAGE, keep, now, min_age)
    ]


def left(root: Path) -> list[str]:
    return sorted(run.run_id for run in find_runs(str(root), STORAGE))


def test_the_newest_runs_stay(tmp_path: Path) -> None:
    for run_id in ("a", "b", "c", "d"):
        published_run(tmp_path, run_id)
    assert removed(tmp_path, keep=2) == ["a", "b"]
    assert removed(tmp_path, keep=9) == []
    remove_all(str(tmp_path), plan_removals(str(tmp_path), STORAGE, 2, LATER, 2 * DAYS), STORAGE)
    assert left(tmp_path) == ["c", "d"]
    assert verify(str(tmp_path), STORAGE)[1] == []


def test_what_readers_see_and_what_is_newest_stays(tmp_path: Path) -> None:
    for run_id in ("a", "b", "c", "d"):
        published_run(tmp_path, run_id)
    roll_back(str(tmp_path), STORAGE, Run(str(tmp_path), "b", "2026-01-05"))
    assert removed(tmp_path, keep=1) == ["a", "c"]
    pin_run(str(tmp_path), STORAGE, Run(str(tmp_path), "a", "2026-01-05"))
    published_run(tmp_path, "e")
    assert removed(tmp_path, keep=1) == ["b", "c", "d"]


def test_a_run_that_readers_have_just_left_stays(tmp_path: Path) -> None:
    for run_id in ("a", "b"):
        published_run(tmp_path, run_id)
    assert removed(tmp_path, keep=1, now=datetime.now(UTC)) == []
    assert removed(tmp_path, keep=1, now=datetime.now(UTC) - 30 * DAYS) == [], "a clock that went back removes nothing"
    assert removed(tmp_path, keep=1) == ["a"]


def test_a_run_that_was_left_while_a_clock_was_behind_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - 400 * DAYS

    published_run(tmp_path, "a")
    with monkeypatch.context() as patch:
        patch.setattr(publication_log, "datetime", Behind)
        published_run(tmp_path, "b")
    assert current_publication(str(tmp_path), STORAGE).run_id == "b", "numbers decide, not clocks"
    assert removed(tmp_path, keep=1, now=datetime.now(UTC)) == []
    assert removed(tmp_path, keep=1) == ["a"]


def test_attempts_that_came_to_nothing_go_once_they_are_old(tmp_path: Path) -> None:
    published_run(tmp_path, "a")
    make_old(write_run(tmp_path, "old").path, days=5)
    write_run(tmp_path, "young")
    assert removed(tmp_path, keep=1, now=datetime.now(UTC)) == ["old"]


def test_a_run_that_readers_have_gone_back_to_since_is_spared(tmp_path: Path) -> None:
    for run_id in ("a", "b", "c"):
        published_run(tmp_path, run_id)
    plan = plan_removals(str(tmp_path), STORAGE, 1, LATER, 2 * DAYS)
    roll_back(str(tmp_path), STORAGE, Run(str(tmp_path), "a", "2026-01-05"))
    remove_all(str(tmp_path), plan, STORAGE)
    assert left(tmp_path) == ["a", "c"]


@pytest.mark.parametrize("kind", ["user_index", "history"])
def test_files_that_no_version_names_go_unless_a_run_may_be_about_to(tmp_path: Path, kind: str) -> None:
    published_run(tmp_path, "a")
    write_run(tmp_path, "busy")
    folder = tmp_path / "history" if kind == "history" else tmp_path / "indexes" / kind
    for name in ("a-1", "a-2", "a-3", "lost-4", "lost-5-work", "busy-6"):
        (folder / "parts" / name).mkdir(parents=True)
        (folder / "parts" / name / "part-0.parquet").write_bytes(b"123")
    log = NumberedLog(STORAGE, str(folder / "versions"))
    for number, names in enumerate((["a-1"], ["a-2"], ["a-2", "a-3"]), 1):
        paths = [f"parts/{name}/part-0.parquet" for name in names]
        days = {"2026-01-05": {"files": [{"path": path} for path in paths]}}
        log.append(number, {"parts": [{"path": path} for path in paths], "days": days})
    now = datetime.now(UTC)
    assert removed(tmp_path, keep=1, now=now) == ["a-1", "lost-4", "lost-5-work"]
    assert removed(tmp_path, keep=3, now=now) == ["lost-4", "lost-5-work"]


@pytest.mark.parametrize("after", [False, True])
def test_a_removal_that_is_cut_off_leaves_no_half_run_behind(fast_folder: Path, after: bool) -> None:
    for number in range(1, 13):
        root = fast_folder / str(number)
        for run_id in ("a", "b", "c"):
            published_run(root, run_id)
        plan = plan_removals(str(root), STORAGE, 1, LATER, 2 * DAYS)
        with pytest.raises(StorageFault):
            remove_all(str(root), plan, fails_at(number, after=after))
        assert current_publication(str(root), STORAGE).run_id == "c"
        assert verify(str(root), STORAGE)[1] == []
        remove_all(str(root), plan_removals(str(root), STORAGE, 1, LATER, 2 * DAYS), STORAGE)
        assert left(root) == ["c"]


def test_two_that_remove_at_once_interleaved_at_every_step(fast_folder: Path) -> None:
    def remove(root: Path, storage: Storage = STORAGE) -> None:
        remove_all(str(root), plan_removals(str(root), storage, 1, LATER, 2 * DAYS), storage)

    for step in range(1, 100):
        root = fast_folder / str(step)
        for run_id in ("a", "b", "c"):
            published_run(root, run_id)

        def the_other(n: int, name: str, arguments: object, step: int = step, root: Path = root) -> None:
            if n == step:
                remove(root)

        watched = WatchedStorage(before=the_other)
        remove(root, watched)
        assert left(root) == ["c"]
        assert verify(str(root), STORAGE)[1] == []
        if watched.n_operations < step:
            break
    assert step > 15


class Turns:
    """Two that act at once: each takes a step when it is its turn, and the rest when it is told to go on."""

    def __init__(self, act: Callable[[Storage], object]) -> None:
        self._allowed, self._waiting = Semaphore(0), Semaphore(0)
        self._is_free = False
        self._thread = Thread(target=self._run, args=(act,))
        self._thread.start()
        self._waiting.acquire()

    def _run(self, act: Callable[[Storage], object]) -> None:
        with suppress(ConfigError):
            act(WatchedStorage(before=self._wait))
        self._is_free = True
        self._waiting.release()

    def _wait(self, n: int, name: str, arguments: object) -> None:
        if not self._is_free:
            self._waiting.release()
            self._allowed.acquire()

    def step(self) -> bool:
        """Do one operation; return whether there are more."""
        if not self._is_free:
            self._allowed.release()
            self._waiting.acquire()
        return not self._is_free

    def go_on(self) -> None:
        self._is_free = True
        self._allowed.release()
        self._thread.join()


@pytest.mark.parametrize("act", [roll_back, pin_run])
def test_who_goes_back_to_a_run_while_it_is_removed_finds_it_whole_or_is_told(
    fast_folder: Path, act: Callable[..., object]
) -> None:
    """The one does some operations, then the other some, then the one the rest, and the other."""
    kept: set[str] = set()
    is_first_over = False
    for first in range(1, 30):
        for second in range(1, 30):
            root = fast_folder / f"{first}-{second}"
            for run_id in ("a", "b"):
                published_run(root, run_id)
            plan = plan_removals(str(root), STORAGE, 1, LATER, 2 * DAYS)
            remover = Turns(lambda storage, root=root, plan=plan: remove_all(str(root), plan, storage))
            is_first_over = not all(remover.step() for _ in range(first))
            back = Turns(lambda storage, root=root: act(str(root), storage, Run(str(root), "a", "2026-01-05")))
            is_second_over = not all(back.step() for _ in range(second))
            remover.go_on()
            back.go_on()
            assert verify(str(root), STORAGE)[1] == []
            kept.add(current_publication(str(root), STORAGE).run_id)
            if is_second_over:
                break
        if is_first_over:
            break
    assert is_first_over
    assert kept == {"a", "b"}


def test_planning_changes_nothing(tmp_path: Path) -> None:
    for run_id in ("a", "b"):
        published_run(tmp_path, run_id)
    before = sorted((path, path.stat().st_mtime) for path in tmp_path.rglob("*"))
    names: list[str] = []
    watched = WatchedStorage(before=lambda n, name, arguments: names.append(name))
    assert plan_removals(str(tmp_path), watched, 1, LATER, 2 * DAYS)
    assert set(names) <= {"find", "read_text", "list_names", "exists"}
    assert sorted((path, path.stat().st_mtime) for path in tmp_path.rglob("*")) == before
    assert isinstance(STORAGE, LocalStorage)
