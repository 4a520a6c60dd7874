"""The commands about runs, through the command line, without Spark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from recsys_spark.chaos.small_night import run_small_night
from recsys_spark.cli import main
from recsys_spark.commands import runs as runs_cli
from recsys_spark.errors import RecsysError
from recsys_spark.publish.forgetting import nobody_else_working
from recsys_spark.runs.lease import Lease, held
from recsys_spark.runs.publication_log import publications
from recsys_spark.tables import RECOMMENDATIONS
from tests.stored_runs import STORAGE, make_old, published_run, write_run

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for run_id in ("r1", "r2", "r3"):
        published_run(tmp_path / "out", run_id)
    write_run(tmp_path / "out", "r4")
    return tmp_path / "out"


@pytest.fixture
def command(
    write_config: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    def no_spark(name: str) -> None:
        raise AssertionError("no Spark is needed for this")

    monkeypatch.setattr(runs_cli, "build_session", no_spark)
    config = write_config()

    def run(name: str, *arguments: str) -> tuple[int, str]:
        code = main([name, *arguments, "--config", config])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_runs_are_listed_with_what_readers_see(out: Path, command: Command) -> None:
    command("pin", "r2")
    code, text = command("runs", "--format", "json")
    assert code == 0
    found = {line["run"]["run_id"]: (line["state"], line["entries"]) for line in json.loads(text)}
    assert found == {
        "r1": ("published", [1]),
        "r2": ("current, pinned", [2, 4]),
        "r3": ("published", [3, 4]),
        "r4": ("not published", []),
    }
    code, text = command("runs")
    assert re.search(r"r2 +│ current, pinned +│ 2, 4", text)
    assert "recommend evaluate" in text


def test_going_back_pinning_and_going_on(out: Path, command: Command) -> None:
    assert command("rollback") == (0, "entry 4: readers see run r2 of 2026-01-05\n")
    assert command("rollback", "r1")[1].startswith("entry 5: readers see run r1")
    assert "pinned: what is published waits" in command("pin")[1]
    assert command("unpin") == (0, "entry 7: readers see run r3 of 2026-01-05\n")
    code, text = command("unpin")
    assert code == 2
    assert "no run is pinned" in text


@pytest.mark.parametrize("name", ["rollback", "pin", "verify"])
def test_a_run_that_is_not_there_is_a_clear_error(out: Path, command: Command, name: str) -> None:
    for strange in ("r9", "../../etc", "'; DROP TABLE runs; --"):
        code, text = command(name, strange)
        assert code == 2
        assert "there is no such run" in text
        assert strange in text
        assert "r1, r2, r3, r4" in text


@pytest.mark.parametrize(
    "arguments",
    [["rollback", ""], ["pin", " "], ["verify", ""], ["forget", ""], ["diff", "", "r1"], ["diff", "r1", ""]],
)
def test_a_blank_name_stands_for_nothing(out: Path, command: Command, arguments: list[str]) -> None:
    code, text = command(*arguments)
    assert code == 2
    assert "it is blank" in text
    assert len(publications(str(out), STORAGE)) == 3


def test_a_run_that_is_not_finished_is_not_called_damaged(out: Path, command: Command) -> None:
    code, text = command("verify", "r4")
    assert code == 2
    assert "this run has no manifest yet" in text
    (out / "runs" / "date=2026-01-05" / "run=r3" / "manifest.json").unlink()
    assert command("verify", "r3")[0] == 3, "one that was published has had one"


def test_nobody_is_forgotten_while_a_run_works_and_no_run_works_meanwhile(out: Path, command: Command) -> None:
    term = timedelta(minutes=5)
    with held(Lease(STORAGE, f"{out}/runs/date=2026-01-05/run=r4", term), term):
        code, text = command("forget", "u1")
        assert code == 1
        assert "another process is working on run r4" in text
    with nobody_else_working(str(out), STORAGE, term):
        code, text = command("forget", "u1")
        assert code == 1
        assert "another process is forgetting a person" in text
        with pytest.raises(RecsysError, match="another process is forgetting a person"):
            run_small_night(str(out), "r5", STORAGE)
    assert "4 rows were removed" in command("forget", "u1")[1]
    run_small_night(str(out), "r5", STORAGE)


def test_gc_says_what_it_removes_and_does_only_that(out: Path, command: Command) -> None:
    make_old(out, days=9)
    code, text = command("gc", "--keep", "2", "--min-age-hours", "0", "--dry-run")
    assert code == 0
    assert "run=r1  (an old run)" in text
    assert "run=r4  (a run that was never published)" in text
    assert "2 would be removed" in text
    names = {path.name for path in (out / "runs" / "date=2026-01-05").iterdir()}
    assert names == {"run=r1", "run=r2", "run=r3", "run=r4"}
    assert "2 removed" in command("gc", "--keep", "2", "--min-age-hours", "0")[1]
    assert {path.name for path in (out / "runs" / "date=2026-01-05").iterdir()} == {"run=r2", "run=r3"}
    assert command("gc", "--keep", "0")[0] == 2
    assert "0 removed" in command("gc", "--keep", "1")[1], "readers may still use what they saw an hour ago"


def test_verify_names_what_is_damaged(out: Path, command: Command) -> None:
    assert command("verify") == (0, "9 files are as they were written\n")
    part = out / "runs" / "date=2026-01-05" / "run=r1" / RECOMMENDATIONS.name / "part-0.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 8
    part.write_bytes(content)
    code, text = command("verify")
    assert code == 3
    assert f"{part}: its bytes were changed" in text
    assert command("verify", "r2")[0] == 0
