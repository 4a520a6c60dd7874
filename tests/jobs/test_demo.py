"""The demo's own configuration, with Spark's own settings, on a part of its ratings."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest

from tests.conftest import ROOT, python_path

pytestmark = pytest.mark.slow


@pytest.mark.timeout(2400)
def test_the_demo_runs_from_its_configuration_and_prints_what_it_found(tmp_path: Path) -> None:
    # All ratings of every twelfth reader: the other tests' session lacks adaptive execution and compiled queries.
    with gzip.open(ROOT / "examples/goodbooks/ratings.csv.gz", "rt") as log:
        lines = [next(log), *(line for line in log if int(line.split(",")[1]) % 12 == 0)]
    (tmp_path / "ratings.csv").write_text("".join(lines))
    command = [sys.executable, "jobs/pipeline.py", "--config", "conf/goodbooks.yaml"]
    settings = [f"input.path={tmp_path / 'ratings.csv'}", f"output.path={tmp_path / 'out'}", "train.iterations=3"]
    options = [text for setting in settings for text in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"}
    environment |= {"PYTHONPATH": python_path()}
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    n_rows = len(lines) - 1
    accepted, merged, quarantined = re.search(
        rf"{n_rows:,} rows in = ([\d,]+) accepted \+ ([\d,]+) merged duplicates \+ ([\d,]+) quarantined", done.stderr
    ).groups()
    assert sum(int(count.replace(",", "")) for count in (accepted, merged, quarantined)) == n_rows

    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    lists = ds.dataset(run / "recommendations").to_table()
    readers = {line.split(",")[1] for line in lines[1:]}
    assert set(lists["user_id"].to_pylist()) == readers
    assert pc.all(pc.equal(pc.list_value_length(lists["recommendations"]), 10)).as_py()
    similar = ds.dataset(run / "similar_items").to_table().to_pylist()
    assert {row["model"].partition(", content at ")[2] for row in similar} == {"0.15"}
    authors = {row["item_id"]: set(row["columns"]) for row in ds.dataset(run / "item_features").to_table().to_pylist()}
    firsts = [(row["item_id"], row["neighbours"][0]["item_id"]) for row in similar if row["neighbours"]]
    assert any(authors[one] & authors[other] for one, other in firsts)
    assert "features in common" in done.stdout
    metrics = {
        (row["model"], row["metric"]): row["value"] for row in ds.dataset(run / "metrics").to_table().to_pylist()
    }
    own = {name for name, metric in metrics if metric == "ndcg@10"} - {"popularity"}
    assert metrics[own.pop(), "ndcg@10"] > metrics["popularity", "ndcg@10"]
