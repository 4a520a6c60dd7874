"""Faults by the hundred in the default suite, and storages that have to be caught."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from recsys_spark.chaos.campaign import ACTS, Act, Outcome, run_campaign, set_up, what_is_wrong
from recsys_spark.chaos.faulty_storage import KINDS, Fault, FaultyStorage, InjectedError
from recsys_spark.cli import main
from recsys_spark.errors import RecsysError
from recsys_spark.storage import LocalStorage, local_path
from tests.faulty_disk import Disk


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.failure]


def test_two_hundred_faults_are_survived(fast_folder: Path) -> None:
    outcomes = list(run_campaign(LocalStorage(), str(fast_folder / "x"), most=4))
    assert failures(outcomes) == []
    assert len(outcomes) >= 200
    assert {(outcome.act, outcome.kind) for outcome in outcomes} >= {(a.name, "is overtaken") for a in ACTS}
    assert {outcome.kind for outcome in outcomes} == set(KINDS)
    assert not list((fast_folder / "x").iterdir()), "nothing is left behind"


@pytest.mark.slow
def test_every_fault_is_survived(fast_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = fast_folder / "config.yaml"
    config.write_text(f"name: x\ninput: {{path: none.csv}}\noutput: {{path: {fast_folder / 'out'}}}\n")
    assert main(["chaos", "--config", str(config)]) == 0
    printed = capsys.readouterr().out
    words = printed.splitlines()[-1].replace(",", "").split()
    injected, survived = int(words[0]), int(words[3])
    assert injected == survived > 2000
    assert not list((fast_folder / "out").iterdir())


def faults_of_the_disk(folder: Path, step: int, acts: tuple[str, ...]) -> list[str | None]:
    """Let every step-th call of some acts fail, before and after its work; return what was wrong then."""
    found = []
    for act in (act for act in ACTS if act.name in acts):
        set_up(act, str(folder), LocalStorage())
        counting = Disk()
        with counting.instead_of_the_real_one():
            act.do(str(folder), LocalStorage())
        shutil.rmtree(folder)
        kinds = {"create", "write", "close", "sync", "list", "read"} | ({"rename"} if "night" in act.name else set())
        assert kinds <= set(counting.calls)
        for number in range(1, len(counting.calls) + 1, step):
            for after in (False, True):
                set_up(act, str(folder), LocalStorage())
                disk = Disk(number, after=after)
                found.append(what_is_wrong(act, str(folder), LocalStorage(), partial(attempt_on, disk, act, folder)))
                shutil.rmtree(folder)
    return found


def attempt_on(disk: Disk, act: Act, folder: Path) -> None:
    with suppress(InjectedError, RecsysError), disk.instead_of_the_real_one():
        act.do(str(folder), LocalStorage())


def test_whichever_call_of_the_system_fails_nobody_notices(fast_folder: Path) -> None:
    found = faults_of_the_disk(fast_folder / "x", 11, ("a further night", "rollback"))
    assert set(found) == {None}
    assert len(found) > 20


@pytest.mark.slow
def test_no_call_of_the_system_may_not_fail(fast_folder: Path) -> None:
    acts = ("a further night", "a night while another run is pinned", "unpin", "lease")
    found = faults_of_the_disk(fast_folder / "x", 1, acts)
    assert set(found) == {None}
    assert len(found) > 400


class Overwriting(LocalStorage):
    """Has no create-if-absent: the later writer wins, as where a store only puts."""

    def create_if_absent(self, path: str, text: str) -> bool:
        self.write_text(path, text)
        return True


class Forgetful(LocalStorage):
    """Does not list what was written last, as stores without consistent listings did."""

    def list_names(self, folder: str) -> list[str]:
        return super().list_names(folder)[:-1]


class HalfWriting(LocalStorage):
    """Writes manifests without moving them into place, and not to the end."""

    def write_text(self, path: str, text: str) -> None:
        if path.endswith("manifest.json"):
            local_path(path).write_text(text[:-1])
        else:
            super().write_text(path, text)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (Overwriting, "the log has lost z"),
        (Forgetful, "another process has taken over"),
        (HalfWriting, "a file of the run is damaged"),
    ],
)
def test_a_storage_that_breaks_its_promises_is_found_out(
    fast_folder: Path, broken: type[LocalStorage], expected: str
) -> None:
    nights = [act for act in ACTS if act.name == "a further night"]
    try:
        found = [o.failure for o in run_campaign(broken(), str(fast_folder / "x"), most=1, acts=nights)]
    except Exception as error:
        # It does not even get through a night without faults.
        found = [str(error)]
    assert any(expected in failure for failure in found if failure)


def test_each_kind_of_fault_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.json")

    def faulty(kind: str, number: int) -> FaultyStorage:
        return FaultyStorage(LocalStorage(), Fault(kind, number), lambda: (tmp_path / "other").touch())  # type: ignore[arg-type]

    storage = faulty("fails", 2)
    assert not storage.exists(path)
    with pytest.raises(InjectedError, match="operation 2, write_text, fails"):
        storage.write_text(path, "text")
    assert not Path(path).exists()
    storage.write_text(path, "text")
    assert storage.operations == ["exists", "write_text", "write_text"]
    with pytest.raises(InjectedError):
        faulty("fails when done", 1).write_text(path, "more")
    assert Path(path).read_text() == "more"
    with pytest.raises(InjectedError):
        faulty("writes half", 1).write_text(path, "0123456789")
    assert Path(path).read_text() == "more"
    assert (tmp_path / ".a.json-half").read_text() == "01234"
    full = faulty("finds no room", 1)
    for name in ("b.json", "c.json"):
        with pytest.raises(InjectedError):
            full.write_text(str(tmp_path / name), "0123")
        (tmp_path / f".{name}-half").unlink()
    full.remove(str(tmp_path / "b.json"))
    gone = faulty("goes away", 2)
    assert gone.exists(path)
    for _ in range(2):
        with pytest.raises(InjectedError):
            gone.exists(path)
    assert faulty("lists twice", 1).list_names(str(tmp_path)) == [".a.json-half", "a.json"] * 2
    assert faulty("is overtaken", 1).list_names(str(tmp_path)) == [".a.json-half", "a.json", "other"]
    assert faulty("lists twice", 1).read_text(path) == "more", "only what can list"
    killed: list[tuple[int, signal.Signals]] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda process, number: killed.append((process, number)))
        with pytest.raises(InjectedError):
            faulty("is killed", 1).write_text(str(tmp_path / "d.json"), "0123")
    assert killed == [(os.getpid(), signal.SIGKILL)]
    assert (tmp_path / ".d.json-half").read_text() == "01"


def test_the_command_tells_what_was_not_survived(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Outcome("rollback", "fails", "exists", 3, "readers see half")
    monkeypatch.setattr(
        "recsys_spark.commands.chaos.run_campaign", lambda *a, **k: [lost, Outcome("pin", "fails", "exists", 1, None)]
    )
    assert main(["chaos"]) == 1
    captured = capsys.readouterr()
    assert "2 faults injected, 1 survived" in captured.out
    assert "rollback, operation 3 (exists), which fails" in captured.err
