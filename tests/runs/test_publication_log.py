from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.runs.publication_log import (
    current_publication,
    pin_run,
    publications,
    publish_run,
    roll_back,
    unpin,
)
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage, Storage
from tests.faulty_storage import StorageFault, WatchedStorage, fails_at

STORAGE = LocalStorage()


def sealed(root: Path, run_id: str, date: str = "2026-01-05") -> Run:
    run = Run(str(root), run_id, date)
    STORAGE.write_text(run.manifest_path, "{}")
    return run


def publish(root: Path, run_id: str, date: str = "2026-01-05", storage: Storage = STORAGE) -> int:
    return publish_run(sealed(root, run_id, date), storage)[0].number


def seen(root: Path) -> str:
    return current_publication(str(root), STORAGE).run_id


def test_entries_are_numbered_and_the_highest_is_current(tmp_path: Path) -> None:
    assert [publish(tmp_path, run_id) for run_id in ("a", "c", "b")] == [1, 2, 3]
    assert [e.run_id for e in publications(str(tmp_path), STORAGE)] == ["a", "c", "b"]
    assert seen(tmp_path) == "b"


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    run = sealed(tmp_path, "a")
    first, is_new = publish_run(run, STORAGE)
    assert is_new
    assert publish_run(run, STORAGE) == (first, False)
    publish(tmp_path, "b")
    assert publish_run(run, STORAGE) == (first, False), "a late repetition does not take readers back"
    assert seen(tmp_path) == "b"


def test_going_back_to_a_run_that_vanishes_leaves_what_was_published_since(tmp_path: Path) -> None:
    """Its tables are removed, and another run is published, right after the entry that shows it again."""
    for run_id in ("a", "b"):
        publish(tmp_path, run_id)

    def remove_and_publish(n: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_if_absent" and arguments[0].endswith("00000003.json"):
            STORAGE.remove(Run(str(tmp_path), "a", "2026-01-05").manifest_path)
            publish(tmp_path, "c")

    with pytest.raises(ConfigError, match="the tables of this run are gone"):
        roll_back(str(tmp_path), WatchedStorage(after=remove_and_publish))
    assert [(entry.kind, entry.run_id) for entry in publications(str(tmp_path), STORAGE)] == [
        ("publish", "a"),
        ("publish", "b"),
        ("rollback", "a"),
        ("publish", "c"),
    ]


def test_writers_that_race_get_one_entry_each(tmp_path: Path) -> None:
    runs = [sealed(tmp_path, f"r{k}") for k in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda run: publish_run(run, STORAGE), runs))
    entries = publications(str(tmp_path), STORAGE)
    assert [entry.number for entry in entries] == list(range(1, 13))
    assert {entry.run_id for entry in entries} == {run.run_id for run in runs}


def test_a_date_selects_its_newest_entry(tmp_path: Path) -> None:
    for run_id, date in (("a", "2026-01-05"), ("b", "2026-01-05"), ("c", "2026-01-06")):
        publish(tmp_path, run_id, date)
    assert current_publication(str(tmp_path), STORAGE, "2026-01-05").run_id == "b"
    with pytest.raises(ConfigError, match=r"nothing was published for 2026-01-07(.|\n)*2026-01-05, 2026-01-06"):
        current_publication(str(tmp_path), STORAGE, "2026-01-07")


def test_an_empty_log_says_so(tmp_path: Path) -> None:
    for act in (current_publication, roll_back, pin_run, unpin):
        with pytest.raises(ConfigError, match="nothing was published"):
            act(str(tmp_path), STORAGE)


def test_rolling_back_goes_one_run_back_each_time_and_the_next_run_goes_on(tmp_path: Path) -> None:
    for run_id in ("a", "b", "c"):
        publish(tmp_path, run_id)
    assert roll_back(str(tmp_path), STORAGE).run_id == "b"
    assert roll_back(str(tmp_path), STORAGE).run_id == "a"
    with pytest.raises(ConfigError, match="no earlier run"):
        roll_back(str(tmp_path), STORAGE)
    assert publish_run(sealed(tmp_path, "c"), STORAGE)[1] is False, "a repetition does not undo a rollback"
    assert seen(tmp_path) == "a"
    assert roll_back(str(tmp_path), STORAGE, Run(str(tmp_path), "c", "2026-01-05")).run_id == "c"
    publish(tmp_path, "d")
    assert seen(tmp_path) == "d"
    assert roll_back(str(tmp_path), STORAGE).run_id == "c"
    assert [entry.kind for entry in publications(str(tmp_path), STORAGE)][3:] == [
        "rollback",
        "rollback",
        "rollback",
        "publish",
        "rollback",
    ]


def test_rolling_back_passes_over_runs_whose_tables_are_gone(tmp_path: Path) -> None:
    for run_id in ("a", "b", "c"):
        publish(tmp_path, run_id)
    gone = Run(str(tmp_path), "b", "2026-01-05")
    STORAGE.remove(gone.path)
    for act in (roll_back, pin_run):
        with pytest.raises(ConfigError, match="the tables of this run are gone"):
            act(str(tmp_path), STORAGE, gone)
        with pytest.raises(ConfigError, match=r"never published[\s\S]*a, b, c"):
            act(str(tmp_path), STORAGE, sealed(tmp_path, "x"))
    assert roll_back(str(tmp_path), STORAGE).run_id == "a"


def test_a_pinned_run_stays_until_it_is_unpinned(tmp_path: Path) -> None:
    publish(tmp_path, "a")
    publish(tmp_path, "b")
    assert pin_run(str(tmp_path), STORAGE, Run(str(tmp_path), "a", "2026-01-05")).run_id == "a"
    publish(tmp_path, "c")
    entry = current_publication(str(tmp_path), STORAGE)
    assert (entry.kind, entry.run_id, entry.pinned, entry.newest_run_id) == ("publish", "a", True, "c")
    assert publish_run(sealed(tmp_path, "c"), STORAGE)[1] is False
    assert unpin(str(tmp_path), STORAGE).run_id == "c"
    with pytest.raises(ConfigError, match="no run is pinned"):
        unpin(str(tmp_path), STORAGE)


def test_checks_that_were_passed_over_leave_a_mark(tmp_path: Path) -> None:
    publish_run(sealed(tmp_path, "a"), STORAGE, forced=["churn"])
    assert current_publication(str(tmp_path), STORAGE).forced == ["churn"]


ACTS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from("abcde")),
    st.tuples(st.sampled_from(["rollback", "pin", "unpin"]), st.none()),
)


@settings(max_examples=40)
@given(st.lists(ACTS, max_size=12))
def test_the_log_is_that_of_a_simple_model(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, str]]
) -> None:
    """The oracle keeps what readers see, the way back, the newest and whether a run is pinned, without any files."""
    root = tmp_path_factory.mktemp("log")
    shown: list[str] = []
    published: list[str] = []
    way: list[str] = []
    pinned = False
    for act, run_id in acts:
        if act == "publish":
            publish_run(sealed(root, run_id), STORAGE)
            if run_id not in published:
                published.append(run_id)
                shown.append(shown[-1] if pinned else run_id)
                way += [] if pinned else [run_id]
            continue
        possible = {"rollback": len(way) > 1, "pin": bool(shown), "unpin": pinned}[act]
        call = {"rollback": roll_back, "pin": pin_run, "unpin": unpin}[act]
        if not possible:
            with pytest.raises(ConfigError):
                call(str(root), STORAGE)
            continue
        call(str(root), STORAGE)
        if act == "rollback":
            way.pop()
        elif act == "unpin" and published[-1] in way:
            way = way[: way.index(published[-1]) + 1]
        elif act == "unpin":
            way.append(published[-1])
        shown.append(way[-1])
        pinned = {"rollback": pinned, "pin": True, "unpin": False}[act]
    entries = publications(str(root), STORAGE)
    assert [entry.run_id for entry in entries] == shown
    if entries:
        assert (entries[-1].newest_run_id, entries[-1].pinned) == (published[-1], pinned)


def test_what_was_rolled_back_from_is_never_gone_back_to(tmp_path: Path) -> None:
    for run_id in "ab":
        publish(tmp_path, run_id)
    assert roll_back(str(tmp_path), STORAGE).run_id == "a"
    publish(tmp_path, "c")
    assert roll_back(str(tmp_path), STORAGE).run_id == "a", "b was as bad as c"
    with pytest.raises(ConfigError, match="no earlier run"):
        roll_back(str(tmp_path), STORAGE)


def test_a_storage_that_goes_on_refusing_is_not_asked_for_ever(tmp_path: Path) -> None:
    class Refuses(LocalStorage):
        def create_if_absent(self, path: str, text: str) -> bool:
            return False

    with pytest.raises(RecsysError, match="no entry could be added to the publication log"):
        publish_run(sealed(tmp_path, "a"), Refuses())


@pytest.mark.parametrize("after", [False, True], ids=["fails", "fails once done"])
def test_whichever_operation_fails_readers_see_the_old_run_or_the_new(tmp_path: Path, after: bool) -> None:
    counted = WatchedStorage()
    publish(tmp_path / "counted", "a")
    publish_run(sealed(tmp_path / "counted", "b"), counted)
    for number in range(1, counted.n_operations + 1):
        root = tmp_path / f"{number}"
        publish(root, "a")
        try:
            publish_run(sealed(root, "b"), fails_at(number, after=after))
        except StorageFault:
            assert seen(root) in ("a", "b")
        publish_run(sealed(root, "b"), STORAGE)
        assert seen(root) == "b", "the next attempt needs nobody's help"
        assert [entry.run_id for entry in publications(str(root), STORAGE)] == ["a", "b"], "and makes no second entry"


def test_a_run_pinned_while_another_is_published_stays_pinned(tmp_path: Path) -> None:
    for step in range(1, 10):
        root = tmp_path / f"{step}"
        publish(root, "a")

        def pin_first(n: int, name: str, arguments: object, step: int = step, root: Path = root) -> None:
            if n == step:
                pin_run(str(root), STORAGE)

        watched = WatchedStorage(before=pin_first)
        publish_run(sealed(root, "b"), watched)
        entries = publications(str(root), STORAGE)
        if watched.n_operations < step:
            break
        assert [entry.kind for entry in entries] in (["publish", "pin", "publish"], ["publish", "publish", "pin"])
        assert entries[-1].pinned
        assert entries[-1].run_id == next(entry.run_id for entry in entries if entry.kind == "pin")
    assert step > 3


def test_two_publishers_interleaved_at_every_step_lose_nothing(tmp_path: Path) -> None:
    counted = WatchedStorage()
    publish(tmp_path / "counted", "a")
    publish_run(sealed(tmp_path / "counted", "b"), counted)
    assert counted.n_operations >= 3
    for step in range(1, counted.n_operations + 1):
        root = tmp_path / f"{step}"
        publish(root, "a")

        def the_other(n: int, name: str, arguments: object, step: int = step, root: Path = root) -> None:
            if n == step:
                publish(root, "c")

        publish_run(sealed(root, "b"), WatchedStorage(before=the_other))
        runs = [entry.run_id for entry in publications(str(root), STORAGE)]
        assert sorted(runs) == ["a", "b", "c"]
        assert seen(root) == runs[-1]
