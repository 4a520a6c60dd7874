from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from recsys_spark.errors import ContractError
from recsys_spark.report.user_page import print_user, read_user
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(str(tmp_path), "r", "2026-01-05")
    entries = [{"item_id": "i9", "score": 4.25, "position": 1, "source": "cf"}]
    tables = {
        "recommendations": {
            "user_id": ["u", "v"],
            "recommendations": [entries, []],
            "short_reason": ["only 1 of 3", None],
        },
        "ratings": {
            "user_id": ["u"] * 12,
            "item_id": [f"i{k:02}" for k in range(12)],
            "rating": [1.0] * 6 + [5.0] * 6,
        },
        "catalogue": {
            "item_id": ["i9", "i06"],
            "title": ["[bold]Nine[/bold]", None],
            "by": ["A. Writer", None],
        },
    }
    for name, columns in tables.items():
        folder = Path(run.path) / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "part-0.parquet")
    return run


def test_page_shows_titles_best_ratings_first_and_no_markup(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    page = read_user(run, LocalStorage(), "u", duplicates="last")
    assert [row["item_id"] for row in page.history[:2]] == ["i06", "i07"]
    print_user(Console(width=120), page)
    printed = capsys.readouterr().out
    assert "1. [bold]Nine[/bold], A. Writer  (4.25, cf)" in printed
    assert "rated (12)" in printed
    assert "... and 2 more" in printed
    assert "only 1 of 3" in printed


def test_new_ratings_stand_in_the_place_of_old_ones_or_are_added(run: Run) -> None:
    before = {row["item_id"]: row["rating"] for row in read_user(run, LocalStorage(), "u", duplicates="last").history}
    folder = Path(run.path) / "new_ratings"
    folder.mkdir()
    new = {"user_id": ["u", "u"], "item_id": ["i00", "j"], "rating": [4.0, 3.0]}
    pq.write_table(pa.table(new), folder / "part-0.parquet")
    ratings = {row["item_id"]: row["rating"] for row in read_user(run, LocalStorage(), "u", duplicates="last").history}
    assert len(ratings) == 13
    assert (ratings["i00"], ratings["j"], ratings["i01"]) == (4.0, 3.0, 1.0)
    added = {row["item_id"]: row["rating"] for row in read_user(run, LocalStorage(), "u", duplicates="sum").history}
    assert added == ratings | {"i00": before["i00"] + 4.0}


def test_an_unknown_user_is_named(run: Run) -> None:
    with pytest.raises(ContractError, match=r"got: 'U'(.|\n)*compared exactly"):
        read_user(run, LocalStorage(), "U", duplicates="last")
