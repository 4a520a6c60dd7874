from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from recsys_spark.config.features import FeatureColumn
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.features.encoder import CellStatistics, fit_encoder
from recsys_spark.features.item_features import encoder_path
from recsys_spark.report.neighbour_page import print_neighbours, read_neighbours
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import SIMILAR_ITEMS, SIMILAR_USERS


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(str(tmp_path), "r", "2026-01-05")
    entry = {"item_id": "i9", "similarity": 0.25, "position": 1, "n_common": 1234}
    tables = {
        "similar_items": {
            "item_id": ["i1", "i9"],
            "neighbours": [[entry], []],
            "short_reason": ["only 1 of 3", "only 0 of 3"],
            "model": ["jaccard, shrink 10"] * 2,
        },
        "catalogue": {"item_id": ["i9", "i1"], "title": ["[bold]Nine[/bold]", "One"], "by": ["A. Writer", None]},
    }
    for name, columns in tables.items():
        folder = Path(run.path) / name
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "part-0.parquet")
    return run


def test_page_shows_titles_and_no_markup(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    print_neighbours(Console(width=120), read_neighbours(run, LocalStorage(), SIMILAR_ITEMS, "i1"))
    printed = capsys.readouterr().out
    for expected in (
        "item One: most similar by jaccard, shrink 10",
        "[bold]Nine[/bold], A. Writer",
        "0.250",
        "1,234",
        "only 1",
    ):
        assert expected in printed


def test_features_in_common_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"year": FeatureColumn(kind="numeric"), "by": FeatureColumn(kind="multi_valued", min_items=1)}
    counts = dict.fromkeys(["Ann", "Bob", "Cleo", "Dan", "[b]Eve"], 2)
    found = {"year": CellStatistics(2, 0, 0, 1990.0, 1.0, {}), "by": CellStatistics(2, 0, 0, 0.0, 0.0, counts)}
    Path(encoder_path(run)).write_text(fit_encoder(columns, found).as_json())
    folder = Path(run.path) / "item_features"
    folder.mkdir()
    # The year and five names of one; the year, and four of those names, of the other.
    values = [[9.0, 1.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 5]
    rows = {"item_id": ["i1", "i9"], "columns": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5]], "values": values}
    pq.write_table(pa.table(rows), folder / "part-0.parquet")
    page = read_neighbours(run, LocalStorage(), SIMILAR_ITEMS, "i1")
    assert page.shared == {"i9": ["Ann", "Bob", "Dan", "[b]Eve"]}
    print_neighbours(Console(width=120), page)
    assert "Ann, Bob, Dan and 1 more" in capsys.readouterr().out
    alone = read_neighbours(run, LocalStorage(), SIMILAR_ITEMS, "i9")
    assert alone.shared == {}


def test_words_in_common_are_named_and_not_what_shares_a_hash(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"by": FeatureColumn(kind="multi_valued"), "plot": FeatureColumn(kind="text", n_hashes=4)}
    by = CellStatistics(2, 0, 0, 0.0, 0.0, {"Ann": 2}, 1, 2, 1)
    found = {"by": by, "plot": CellStatistics(2, 0, 0, 0.0, 0.0, {"0": 2, "3": 1})}
    Path(encoder_path(run)).write_text(fit_encoder(columns, found).as_json())
    tables = {
        "item_features": {
            "item_id": ["i1", "i9"],
            "columns": [[0, 1, 2, 4], [0, 1, 2]],
            "values": [[0.3, 0.2, 0.7, 0.6], [1.0, 0.5, 0.5]],
        },
        # Column 1 is war and peace of the one, war and cheese of the other.
        "item_words": {
            "item_id": ["i1", "i9"],
            "words": [
                [{"column": c, "word": w} for c, w in [(1, "peace"), (1, "war"), (2, "school"), (4, "magic")]],
                [{"column": c, "word": w} for c, w in [(1, "cheese"), (1, "war"), (2, "school")]],
            ],
        },
    }
    for name, content in tables.items():
        folder = Path(run.path) / name
        folder.mkdir()
        pq.write_table(pa.table(content), folder / "part-0.parquet")
    page = read_neighbours(run, LocalStorage(), SIMILAR_ITEMS, "i1")
    assert page.shared == {"i9": ["school", "Ann", "war"]}, "what counts most in the item comes first"
    print_neighbours(Console(width=120), page)
    assert "school, Ann, war" in capsys.readouterr().out


def test_an_unknown_item_and_an_absent_table_are_named(run: Run) -> None:
    with pytest.raises(ContractError, match=r"the table has no such item(.|\n)*got: 'I1'(.|\n)*compared exactly"):
        read_neighbours(run, LocalStorage(), SIMILAR_ITEMS, "I1")
    with pytest.raises(ConfigError, match=r"no table of similar users(.|\n)*add similar_users"):
        read_neighbours(run, LocalStorage(), SIMILAR_USERS, "u1")
