"""The picture of the architecture: drawn from what the code is now, and refused where the code has no place in it."""

from __future__ import annotations

import itertools
import runpy
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "draw_architecture.py"))


def test_the_picture_is_the_one_of_this_code(script: dict[str, Any]) -> None:
    kept = (DOCS / "architecture.svg").read_text(encoding="utf-8")
    assert kept == script["draw"](), "make redraw draws it again"


def test_it_tells_each_import_once_and_is_well_formed(script: dict[str, Any]) -> None:
    root = ElementTree.fromstring(script["draw"]())
    told = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    edges = script["read_imports"]()
    assert len(told) == len(set(told)) == len(edges)
    # Known by reading the code: one module of the jobs per stage imports the command line, and nothing else does.
    n_jobs = len(list((DOCS.parent / "jobs").glob("*.py")))
    assert {here: n for (here, there), n in edges.items() if there == "cli.py"} == {"jobs/": n_jobs}
    assert f"jobs/ imports cli.py: {n_jobs} modules" in told


def test_tables_stand_where_they_are_written_and_read(script: dict[str, Any]) -> None:
    columns = list(script["COLUMNS"])
    lanes = {lane.name: lane for lane in script["lanes"]()}
    ratings, lists = lanes["indexed_ratings"], lanes["recommendations"]
    assert columns[ratings.writer] == "index"
    assert {"train", "recommend", "evaluate"} <= {columns[reader] for reader in ratings.readers}
    assert (columns[lists.writer], [columns[reader] for reader in lists.readers]) == (
        "recommend",
        ["publish", "report"],
    )
    for row in {lane.row for lane in lanes.values()}:
        beside = sorted((lane for lane in lanes.values() if lane.row == row), key=lambda lane: lane.writer)
        for left, right in itertools.pairwise(beside):
            assert left.ends < script["column_x"](right.writer)


def test_an_import_that_points_up_has_no_place(script: dict[str, Any]) -> None:
    places = script["places"](3)
    for edge, says in {("storage/", "runs/"): "stands above", ("kernels/", "tables.py"): "stands above"}.items():
        with pytest.raises(ValueError, match=says):
            script["_draw_dots"](script["Drawing"](), places, Counter({edge: 1}))
    with pytest.raises(ValueError, match="later stage"):
        script["_draw_arcs"](script["Drawing"](), places, Counter({("index", "train"): 1}))
    with pytest.raises(KeyError):
        script["group_of"]("recsys_spark.brand_new_module")
