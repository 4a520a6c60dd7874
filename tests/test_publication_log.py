from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.publication_log import current_publication, publications, publish_run
from recsys_spark.run_directory import Run
from recsys_spark.storage import LocalStorage


def test_entries_are_numbered_and_the_highest_is_current(tmp_path: Path) -> None:
    storage = LocalStorage()
    for run_id in ("a", "c", "b"):
        entry, is_new = publish_run(Run(str(tmp_path), run_id, "2026-01-05"), storage)
        assert is_new
    assert entry.number == 3
    assert [e.run_id for e in publications(str(tmp_path), storage)] == ["a", "c", "b"]
    assert current_publication(str(tmp_path), storage).run_id == "b"


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    storage, run = LocalStorage(), Run(str(tmp_path), "a", "2026-01-05")
    first, _ = publish_run(run, storage)
    assert publish_run(run, storage) == (first, False)
    publish_run(Run(str(tmp_path), "b", "2026-01-05"), storage)
    assert publish_run(run, storage) == (first, False), "a late repetition does not take readers back"
    assert current_publication(str(tmp_path), storage).run_id == "b"


def test_writers_that_race_get_one_entry_each(tmp_path: Path) -> None:
    storage = LocalStorage()
    runs = [Run(str(tmp_path), f"r{k}", "2026-01-05") for k in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda run: publish_run(run, storage), runs))
    entries = publications(str(tmp_path), storage)
    assert [entry.number for entry in entries] == list(range(1, 13))
    assert {entry.run_id for entry in entries} == {run.run_id for run in runs}


def test_a_date_selects_its_newest_entry(tmp_path: Path) -> None:
    storage = LocalStorage()
    for run_id, date in (("a", "2026-01-05"), ("b", "2026-01-05"), ("c", "2026-01-06")):
        publish_run(Run(str(tmp_path), run_id, date), storage)
    assert current_publication(str(tmp_path), storage, "2026-01-05").run_id == "b"
    with pytest.raises(ConfigError, match=r"nothing was published for 2026-01-07(.|\n)*2026-01-05, 2026-01-06"):
        current_publication(str(tmp_path), storage, "2026-01-07")


def test_an_empty_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing was published"):
        current_publication(str(tmp_path), LocalStorage())


def test_files_that_are_no_entries_are_ignored(tmp_path: Path) -> None:
    storage = LocalStorage()
    publish_run(Run(str(tmp_path), "a", "2026-01-05"), storage)
    for name in (".00000002.json-x", "00000002.json.tmp", "notes.txt"):
        (tmp_path / "publication_log" / name).write_text("half")
    assert current_publication(str(tmp_path), storage).run_id == "a"
