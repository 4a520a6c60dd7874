"""The commands that show a run, on runs whose page's data are there: no Spark is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_spark.cli import main
from recsys_spark.commands import report as report_commands
from tests.report.page_samples import page_data

WriteConfig = Callable[..., str]


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(app_name: str) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr(report_commands, "build_session", refuse)


def store_run(root: Path, run_id: str, day: str = "2026-01-05") -> Path:
    data = page_data()
    data["run"]["run_id"] = run_id
    folder = root / "out" / "runs" / f"date={day}" / f"run={run_id}"
    (folder / "stages").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(data["run"]))
    (folder / "report.json").write_text(json.dumps(data))
    for name, record in data["records"].items():
        (folder / "stages" / f"{name}.json").write_text(json.dumps(record))
    return folder


def test_report_writes_a_page_beside_the_run_or_elsewhere(
    tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, config = store_run(tmp_path, "r1"), write_config()
    assert main(["report", "r1", "--config", config]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert "The model beats every baseline" in (folder / "report.html").read_text()
    assert main(["report", "r1", "--config", config, "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == (folder / "report.html").read_text()


def test_report_sets_two_runs_side_by_side(tmp_path: Path, write_config: WriteConfig) -> None:
    store_run(tmp_path, "r1")
    folder, config = store_run(tmp_path, "r2", "2026-01-06"), write_config()
    assert main(["report", "--compare", "r1", "r2", "--config", config]) == 0
    assert "their intervals meet" in (folder / "report-beside-r1.html").read_text()


def test_unknown_runs_and_half_a_command_are_refused(
    tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    store_run(tmp_path, "r1")
    config = write_config()
    assert main(["report", "r7", "--config", config]) == 2
    error = capsys.readouterr().err
    assert "no such run" in error
    assert "allowed: r1" in error
    assert main(["report", "--config", config]) == 2
    assert main(["report", "r1", "--compare", "r1", "r1", "--config", config]) == 2
    assert "one run, or --compare with two" in capsys.readouterr().err
    assert main(["export-metrics", "../r1", "--config", config]) == 2


def test_numbers_are_printed_or_replace_a_file(
    tmp_path: Path, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    store_run(tmp_path, "r1")
    config, target = write_config(), tmp_path / "recsys.prom"
    assert main(["export-metrics", "r1", "--config", config]) == 0
    printed = capsys.readouterr().out
    assert 'recsys_stage_duration_seconds{pipeline="shop",stage="train"} 9.5' in printed
    assert printed.endswith("# EOF\n")
    target.write_text("old")
    assert main(["export-metrics", "r1", "--config", config, "--output", str(target)]) == 0
    assert target.read_text() == printed
