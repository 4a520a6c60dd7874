"""The command line without Spark: dry runs, exit codes, messages, logs."""

from __future__ import annotations

import errno
import io
import json
import logging
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.errors import (
    ContractError,
    NumericalError,
    RecsysError,
    error_from_full_disk,
    error_from_lack_of_memory,
    error_from_worker,
)
from recsys_spark.progress import Progress, configure_logging, log_run_id
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import LocalStorage

WriteConfig = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(app_name: str) -> None:
        raise AssertionError("this command must not start Spark")

    monkeypatch.setattr(cli, "build_session", refuse)


def test_dry_run_shows_everything_and_writes_nothing(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nu,a,1\n")
    config = write_config(input={"columns": {"timestamp": "at"}})
    before = sorted(tmp_path.rglob("*"))
    command = ["pipeline", "--config", config, "--dry-run", "--date", "2026-01-05", "--set", "train.rank=9"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "rank: 9" in printed
    assert "29 bytes" in printed
    assert str(tmp_path / "ratings.csv") in printed
    assert "2026-01-05T00:00:00+00:00 to 2026-01-06T00:00:00+00:00" in printed
    assert "date=2026-01-05/run=" in printed
    for table in ("ratings", "quarantine", "user_factors", "recommendations", "metrics", "publication_log"):
        assert table in printed
    assert "item_words" not in printed, "no features are configured"
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_looks_for_new_ratings(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nu,a,1\n")
    config = write_config(recommend={"new_ratings": str(tmp_path / "since.csv")})
    assert main(["pipeline", "--config", config, "--dry-run"]) == 2
    assert "where: recommend.new_ratings" in capsys.readouterr().err
    (tmp_path / "since.csv").write_text("user_id,item_id,rating\n")
    assert main(["pipeline", "--config", config, "--dry-run"]) == 0
    assert str(tmp_path / "since.csv") in capsys.readouterr().out
    assert main(["pipeline", "--config", write_config(recommend={"new_ratings": []}), "--dry-run"]) == 2
    assert "new_ratings must name at least one file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pipeline", "--config", "absent.yaml"], "the configuration file does not exist"),
        (["pipeline"], "Missing option '--config'"),
        (["pipline"], "No such command 'pipline'"),
        (["pipeline", "--config", "CONFIG", "--set", "train.rnak=1"], "did you mean train.rank?"),
        (
            ["pipeline", "--config", "CONFIG", "--start", "2026-01-02", "--end", "2026-01-01"],
            "is empty",
        ),
        (["pipeline", "--config", "CONFIG", "--dry-run"], "no input file was found"),
        (["pipeline", "--config", "CONFIG", "--dry-run", "--date", "2026-01-01"], "an interval needs event times"),
        (["train", "--config", "CONFIG", "--dry-run"], "train continues a run, and none was named"),
        (["train", "--config", "CONFIG", "--dry-run", "--run-id", "x"], "this one does not exist"),
        (["ingest", "--config", "CONFIG", "--dry-run", "--run-id", "::"], "--run-id cannot be used"),
        (["show", "u", "--config", "CONFIG"], "nothing was published"),
        (["plan", "--config", "CONFIG"], "plan needs a run whose index stage is done"),
        (["plan", "--config", "CONFIG", "--set", "train.rnak=1"], "did you mean train.rank?"),
    ],
)
def test_mistakes_on_the_command_line_exit_with_2(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    config = write_config()
    assert main([config if argument == "CONFIG" else argument for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert expected in text
    assert "Traceback" not in text
    # Of mistakes in a configuration, each problem has a remedy of its own.
    assert "remedy: " in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContractError("broken"), 3),
        (NumericalError("broken"), 4),
        (RecsysError("broken"), 1),
        (ZeroDivisionError("broken"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes_are_fixed(
    write_config: WriteConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_inputs", fail)
    assert main(["ingest", "--config", write_config(), "--dry-run"]) == code
    text = capsys.readouterr().err
    assert ("Traceback" in text) == isinstance(error, ZeroDivisionError)
    lines = text.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("  remedy: "), "the last line says what to do"


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        MemoryError(),
        OSError(errno.ENOSPC, "No space left on device"),
        RecsysError("the storage went away"),
        ZeroDivisionError(),
    ],
)
def test_a_run_that_is_cut_off_says_how_to_go_on(
    write_config: WriteConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    begun: list[StageContext] = []

    def cut_off(context: StageContext, chosen: object) -> None:
        begun.append(context)
        raise error

    monkeypatch.setattr(cli, "build_session", lambda app_name: object())
    monkeypatch.setattr(cli, "storage_for", lambda path, spark: LocalStorage())
    monkeypatch.setattr(cli, "run_stages", cut_off)
    config = write_config()
    options = ["--set", "train.rank=3", "--refresh", "affected", "--force"]
    assert main(["ingest", "--config", config, *options]) in (130, 1)
    last = capsys.readouterr().err.splitlines()[-1]
    # The run was given a name, and the command that goes on has it.
    run_id = begun[0].run.run_id
    command = f"recsys-spark ingest --config {config} --set train.rank=3 --run-id {run_id} --refresh affected --force"
    assert last.startswith("  remedy: ")
    assert last.endswith(f"go on with: {command}")


def test_errors_of_workers_keep_their_kind_and_words() -> None:
    inner = NumericalError("row 7 is not finite", where="row 7", remedy="rescale")
    trace = f"Traceback\n  File x\nrecsys_spark.errors.NumericalError: {inner}\n\n\tat org.apache.spark"
    found = error_from_worker(trace)
    assert isinstance(found, NumericalError)
    assert str(found) == str(inner)
    assert error_from_worker("ValueError: recsys_spark is fine") is None
    assert error_from_worker("recsys_spark.errors.Nothing: x") is None


def test_a_full_disk_is_told_with_what_to_do(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "_inputs", fail)
    assert main(["ingest", "--config", write_config(), "--dry-run"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: no room is left on a disk; readers keep what they have\n")
    assert "Traceback" not in told
    message = "Job aborted.\nCaused by: java.io.IOException: No space left on device\n\tat java.base"
    text = str(error_from_full_disk(message, "go on"))
    assert "got: Caused by: java.io.IOException: No space left on device\n" in text
    assert text.endswith("(spark.local.dir), then go on")
    assert error_from_full_disk("No space for doubt", "go on") is None


@pytest.mark.parametrize(
    "line",
    [
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 GiB for an array",
        "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed). Consider setting something",
        "java.lang.OutOfMemoryError: Java heap space",
    ],
)
def test_a_lack_of_memory_is_told_with_what_to_do(line: str) -> None:
    told = str(error_from_lack_of_memory(f"Job aborted.\n  {line}\n\tat java.base", "go on"))
    assert f"got: {line}\n  remedy: give Spark more" in told
    assert told.endswith(", then go on")
    assert error_from_lack_of_memory("a memory of errors", "go on") is None


def test_every_job_is_the_command_of_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in sorted((ROOT / "jobs").glob("*.py")):
        monkeypatch.setattr(sys, "argv", [str(job), "--help"])
        with pytest.raises(SystemExit) as done:
            runpy.run_path(str(job), run_name="__main__")
        assert done.value.code == 0
        printed = capsys.readouterr().out
        assert f"recsys-spark {job.stem} " in printed
        assert "Exit codes: 0 ok, 2 configuration" in printed


def test_json_log_has_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    log_run_id("r1")
    progress = Progress()
    progress.say('a "quoted" line\nof two', rows=3)
    with progress.steps("train", 2) as steps:
        steps.done("users", objective=1.5)
        steps.done("items", objective=1.25)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert next(line["message"] for line in lines) == 'a "quoted" line\nof two'
    assert lines[0]["rows"] == 3
    assert {line["run_id"] for line in lines} == {"r1"}
    assert [line["objective"] for line in lines[1:]] == [1.5, 1.25]
    assert lines[1]["eta_seconds"] >= 0
    logging.getLogger("recsys_spark").handlers.clear()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress.for_stream("text").steps("train", 2) as steps:
        steps.done("users, objective 12")
    drawn = terminal.getvalue()
    assert "━" in drawn
    assert "1/2" in drawn
    assert "users, objective 12, about 0 s left" in drawn


def test_plain_log_tells_step_objective_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    with Progress().steps("train", 2) as steps:
        steps.done("users, objective 12")
    line = capsys.readouterr().err.strip()
    assert "train 1/2: users, objective 12, about 0 s left" in line
    logging.getLogger("recsys_spark").handlers.clear()
