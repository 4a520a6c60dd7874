"""The lineage of stages, beside what the specification of OpenLineage requires."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from recsys_spark import pipeline
from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ContractError
from recsys_spark.interval import Interval
from recsys_spark.pipeline import Stage, run_stages
from recsys_spark.progress import Progress
from recsys_spark.runs.lineage import Dataset, StageEvents, dataset_name, outside_inputs
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import INDEXED_RATINGS, USER_FACTORS
from tests.conftest import small_config

# Properties that an event and its parts must have (OpenLineage 2-0-2: RunEvent with BaseEvent, Run, Job, Dataset,
# BaseFacet; and of each facet's own schema).
REQUIRED = {
    "event": {"eventTime", "producer", "schemaURL", "run", "job"},
    "run": {"runId"},
    "job": {"namespace", "name"},
    "dataset": {"namespace", "name"},
    "facet": {"_producer", "_schemaURL"},
    "parent": {"run", "job"},
    "errorMessage": {"message", "programmingLanguage"},
    "processing_engine": {"version"},
    "nominalTime": {"nominalStartTime"},
    "schema": {"fields"},
}
EVENT_TYPES = {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}


def is_uri(text: str) -> bool:
    return bool(urlsplit(text).scheme) and " " not in text


def check_facets(facets: dict[str, Any]) -> None:
    for name, facet in facets.items():
        assert REQUIRED["facet"] | REQUIRED[name] <= facet.keys(), name
        assert is_uri(facet["_producer"])
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")
        assert facet["_schemaURL"].partition("#/$defs/")[2]


def check_event(event: dict[str, Any]) -> None:
    """Check an event as the specification's schema would."""
    assert REQUIRED["event"] <= event.keys()
    assert event["eventType"] in EVENT_TYPES
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert is_uri(event["producer"])
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    assert REQUIRED["run"] <= event["run"].keys()
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert REQUIRED["job"] <= event["job"].keys()
    check_facets(event["run"]["facets"])
    check_facets(event["job"]["facets"])
    uuid.UUID(event["run"]["facets"]["parent"]["run"]["runId"])
    for dataset in event["inputs"] + event["outputs"]:
        assert REQUIRED["dataset"] <= dataset.keys()
        check_facets(dataset["facets"])
        for field in dataset["facets"].get("schema", {}).get("fields", []):
            assert field["name"]
            assert all(isinstance(text, str) for text in field.values())


def events_in(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(file.read_text()) for file in sorted(folder.rglob("lineage/*.json"))]
    for event in events:
        check_event(event)
    return events


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """Return the context of a run whose stages need no Spark."""
    config = PipelineConfig.model_validate(small_config(tmp_path, {}))
    run = Run(config.output.path, "r1", "2026-01-05")
    interval = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))
    nothing: Any = None
    return StageContext(nothing, config, run, LocalStorage(), Progress(), interval)


def test_a_stage_leaves_its_inputs_and_outputs(context: StageContext, tmp_path: Path) -> None:
    def run(given: StageContext) -> dict[str, Any]:
        given.tables_read[INDEXED_RATINGS.name] = INDEXED_RATINGS
        (tmp_path / given.run.table_path(USER_FACTORS)).mkdir(parents=True)
        return {}

    run_stages(context, [Stage("train", run, (USER_FACTORS,), ())])
    start, complete = events_in(tmp_path)
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["job"]["name"] == "test.train"
    (read,), (written,) = complete["inputs"], complete["outputs"]
    assert (read["namespace"], read["name"]) == ("file", context.run.table_path(INDEXED_RATINGS))
    assert written["name"] == context.run.table_path(USER_FACTORS)
    fields = {field["name"]: field for field in written["facets"]["schema"]["fields"]}
    assert list(fields) == USER_FACTORS.schema.names
    assert fields["factors"] == {"name": "factors", "type": "array<float>", "description": "one value per factor"}
    times = complete["run"]["facets"]["nominalTime"]
    assert times["nominalStartTime"] == "2026-01-05T00:00:00+00:00"
    assert not context.tables_read, "each stage begins with none"


@pytest.mark.parametrize(
    ("error", "kind"), [(ContractError("rows are bad", got="u1,a,5"), "FAIL"), (KeyboardInterrupt(), "ABORT")]
)
def test_a_stage_that_fails_says_so_without_quoting_rows(
    context: StageContext, tmp_path: Path, error: BaseException, kind: str
) -> None:
    def fail(given: StageContext) -> dict[str, Any]:
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            run_stages(context, [Stage("train", fail, (USER_FACTORS,), ())])
    first, failed, again, _ = events_in(tmp_path)
    assert failed["eventType"] == kind
    message = failed["run"]["facets"]["errorMessage"]["message"]
    assert message == ("rows are bad" if kind == "FAIL" else "KeyboardInterrupt")
    assert first["run"]["runId"] != again["run"]["runId"], "every attempt is a run of its own"
    assert first["run"]["facets"]["parent"] == again["run"]["facets"]["parent"]


def test_a_storage_that_refuses_an_event_does_not_stop_the_stage(
    context: StageContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: LocalStorage, path: str, text: str) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(LocalStorage, "write_text", refuse)
    StageEvents(context, "train").write("START")
    assert "the lineage event START was not written" in caplog.text


def test_what_comes_from_outside_belongs_to_the_stage_that_reads_it(tmp_path: Path) -> None:
    beside = {
        "catalogue": {"path": "items.csv", "title": "name"},
        "recommend": {"n": 3, "deny": {"path": "s3a://lists/deny.csv"}, "new_ratings": "since.csv"},
    }
    config = PipelineConfig.model_validate(small_config(tmp_path, beside))
    log_file, items = outside_inputs(config, "ingest", ["/log/a.csv"])
    assert (log_file.location, [name for name, _, _ in log_file.fields]) == (
        "/log/a.csv",
        ["user_id", "item_id", "rating"],
    )
    assert (items.location, ("name", "", "title") in items.fields) == ("items.csv", True)
    assert [found.location for found in outside_inputs(config, "recommend", [])] == [
        "since.csv",
        "s3a://lists/deny.csv",
    ]
    assert outside_inputs(config, "train", []) == []
    many = [f"/log/{n % 3}/{n}.csv" for n in range(500)]
    assert [found.location for found in outside_inputs(config, "ingest", many)][:3] == ["/log/0", "/log/1", "/log/2"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/data/x", ("file", "/data/x")),
        ("file:///data/x", ("file", "/data/x")),
        ("s3a://bucket/runs/x", ("s3://bucket", "runs/x")),
        ("gs://bucket/x", ("gs://bucket", "x")),
        ("hdfs://host:8020/runs", ("hdfs://host:8020", "/runs")),
        ("abfss://box@store.dfs.core.windows.net/x", ("abfss://box@store.dfs.core.windows.net", "/x")),
    ],
)
def test_places_have_the_names_that_others_give_them(location: str, expected: tuple[str, str]) -> None:
    assert dataset_name(location) == expected


def test_secrets_are_not_in_events(context: StageContext, tmp_path: Path) -> None:
    StageEvents(context, "train").write("START", [Dataset("hdfs://me:hush@host/x")])
    assert "hush" not in json.dumps(events_in(tmp_path))


def test_all_stages_name_where_they_write() -> None:
    run = Run("/out", "r1", "2026-01-05")
    targets = {stage.name: stage.targets(run) for stage in pipeline.stages()}
    assert targets["publish"] == ["/out/publication_log"]
    assert targets["report"] == [f"{run.path}/report.html"]
    assert all(targets.values())
