from __future__ import annotations

import math

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from recsys_spark.report.open_metrics import open_metrics
from tests.report.page_samples import page_data

HOSTILE = 'a "quoted" \\ back\nnew line'


def samples_of(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "pipeline"}
            assert sample.labels["pipeline"] == "shop"
            key = (sample.name, tuple(labels.values()))
            assert key not in found
            found[key] = sample.value
    return found


def test_another_parser_reads_every_number() -> None:
    data = page_data()
    data["records"]["evaluate"]["metrics"][0] |= {"model": HOSTILE, "high": None}
    data["records"]["evaluate"]["metrics"][1]["value"] = math.nan
    found = samples_of(open_metrics(data["run"], data["records"]))
    assert found["recsys_run_info", ("r1", "2026-01-05", "1.0")] == 1
    assert found["recsys_stage_duration_seconds", ("train",)] == 9.5
    assert found["recsys_rows", ("quarantined",)] == 500
    assert found["recsys_quarantined_rows", ("malformed_line",)] == 200
    assert found["recsys_size", ("items",)] == 10_000
    history = data["records"]["train"]["history"]
    assert found["recsys_objective", ("penalty",)] == history[-1]["penalty"]
    assert found["recsys_measure", (HOSTILE, "ndcg@5", "all")] == 0.31 * 0.8
    assert ("recsys_measure_high", (HOSTILE, "ndcg@5", "all")) not in found
    assert ("recsys_measure", ("model", "recall@5", "all")) not in found
    assert found["recsys_measure_low", ("rating_model", "rmse", "all")] == 0.92 - 0.01
    assert found["recsys_beats_baseline", ("model", "popularity", "ndcg@10")] == 1
    assert found["recsys_published", ()] == 1
    assert found["recsys_run_started_timestamp_seconds", ()] == 1767582000


def test_a_run_that_has_hardly_begun_has_numbers_too() -> None:
    found = samples_of(open_metrics(page_data()["run"], {}))
    assert found["recsys_published", ()] == 0
    assert {name for name, _ in found} == {
        "recsys_run_info", "recsys_run_started_timestamp_seconds", "recsys_published"
    }  # fmt: skip
