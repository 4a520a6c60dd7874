"""What each stage has read and written, as OpenLineage run events in the run's own directory."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import pyspark

from recsys_spark import __version__
from recsys_spark.config import PipelineConfig
from recsys_spark.config.input import InputConfig
from recsys_spark.redaction import redacted
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import is_local, join, local_path
from recsys_spark.tables import Table

log = logging.getLogger(__name__)

EventType = Literal["START", "COMPLETE", "ABORT", "FAIL"]

_NAMESPACE = "recsys_spark"
_PRODUCER = f"urn:recsys-spark:{__version__}"
_SPEC = "https://openlineage.io/spec"
# On object stores a name has no slash before it.
_OBJECT_STORES = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs"}
_MOST_FILES = 100


@dataclass(frozen=True, slots=True)
class Dataset:
    """A place that a stage reads or writes; fields are (name, type, description), the last two where they are known."""

    location: str
    fields: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of_table(cls, location: str, table: Table) -> Dataset:
        """Return a table as a dataset, with its columns."""
        fields = tuple((f.name, f.dataType.simpleString(), f.metadata.get("comment", "")) for f in table.schema.fields)
        return cls(location, fields)

    def as_dict(self) -> dict[str, Any]:
        """Return the dataset as an event has it."""
        namespace, name = dataset_name(self.location)
        fields = [
            {key: text for key, text in zip(("name", "type", "description"), field, strict=True) if text}
            for field in self.fields
        ]
        facets = {"schema": _facet("facets/1-0-0/SchemaDatasetFacet", fields=fields)} if fields else {}
        return {"namespace": namespace, "name": name, "facets": facets}


def dataset_name(location: str) -> tuple[str, str]:
    """Return namespace and name of a location, as OpenLineage's naming conventions have them."""
    if is_local(location):
        return "file", str(local_path(location).absolute())
    parts = urlsplit(location)
    if parts.scheme in _OBJECT_STORES:
        return f"{_OBJECT_STORES[parts.scheme]}://{parts.netloc}", parts.path.lstrip("/")
    return f"{parts.scheme}://{parts.netloc}", parts.path


def outside_inputs(config: PipelineConfig, stage: str, log_files: Sequence[str]) -> list[Dataset]:
    """Return what a stage reads that no stage has written.

    Parameters
    ----------
    config : PipelineConfig
    stage : str
    log_files : sequence of str
        The raw log's files, for ingest. Where there are very many, their folders stand for them.
    """
    if stage == "ingest":
        folders = sorted({path.rpartition("/")[0] for path in log_files})
        places = log_files if len(log_files) <= _MOST_FILES else folders
        found = [Dataset(path, _columns_of_log(config.input)) for path in places]
        return found + _tables_beside(config, ["catalogue"])
    if stage == "features":
        return _tables_beside(config, ["item_features"])
    if stage == "recommend":
        new = [] if config.recommend.new_ratings is None else config.new_ratings_input.paths
        found = [Dataset(path, _columns_of_log(config.input)) for path in new]
        return found + _tables_beside(config, config.recommend.files)
    return []


def _tables_beside(config: PipelineConfig, settings: Iterable[str]) -> list[Dataset]:
    files = [config.files[name] for name in settings if name in config.files]
    return [Dataset(f.path, tuple((name, "", role) for role, name in f.columns.items())) for f in files]


def _columns_of_log(config: InputConfig) -> tuple[tuple[str, str, str], ...]:
    roles = {role: getattr(config.columns, role) for role in type(config.columns).model_fields}
    return tuple((str(column), "", role) for role, column in roles.items() if column is not None)


class StageEvents:
    """The events of one attempt at a stage: each is a small file of its own, and their names sort by time.

    Parameters
    ----------
    context : StageContext
    stage : str

    Attributes
    ----------
    run_id : str
        A UUID of this attempt. All attempts and stages of a run have the same parent: a UUID made from its path.
    """

    def __init__(self, context: StageContext, stage: str) -> None:
        self._context, self._stage = context, stage
        self._job = {"namespace": _NAMESPACE, "name": f"{context.config.name}.{stage}"}
        self.run_id = str(uuid.uuid4())

    def write(
        self,
        kind: EventType,
        inputs: Iterable[Dataset] = (),
        outputs: Iterable[Dataset] = (),
        error: BaseException | None = None,
    ) -> None:
        """Write one event; a storage that refuses it is warned of, for the stage itself is what counts."""
        now = datetime.now(UTC)
        event = {
            "eventType": kind,
            "eventTime": now.isoformat(timespec="microseconds"),
            "run": {"runId": self.run_id, "facets": self._run_facets(error)},
            "job": {**self._job, "facets": {}},
            "inputs": [dataset.as_dict() for dataset in inputs],
            "outputs": [dataset.as_dict() for dataset in outputs],
            "producer": _PRODUCER,
            "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        }
        name = f"{now:%Y%m%dT%H%M%S.%fZ}-{self._stage}-{kind}.json"
        try:
            text = json.dumps(redacted(event), indent=2, ensure_ascii=False)
            self._context.storage.write_text(join(self._context.run.path, "lineage", name), text)
        except Exception as refused:
            log.warning(f"{self._stage}: the lineage event {kind} was not written: {refused}")

    def _run_facets(self, error: BaseException | None) -> dict[str, Any]:
        run, interval = self._context.run, self._context.interval
        parent = uuid.uuid5(uuid.NAMESPACE_URL, "/".join(dataset_name(run.path)))
        facets = {
            "parent": _facet(
                "facets/1-0-0/ParentRunFacet",
                run={"runId": str(parent)},
                job={"namespace": _NAMESPACE, "name": self._context.config.name},
            ),
            "processing_engine": _facet(
                "facets/1-1-0/ProcessingEngineRunFacet", name="Spark", version=pyspark.__version__
            ),
        }
        if interval is not None:
            times = interval.as_dict()
            facets["nominalTime"] = _facet(
                "facets/1-0-0/NominalTimeRunFacet", nominalStartTime=times["start"], nominalEndTime=times["end"]
            )
        if error is not None:
            # The first line only: further ones may quote rows, and what a person has rated is not for a catalogue.
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            facets["errorMessage"] = _facet(
                "facets/1-0-0/ErrorMessageRunFacet", message=first, programmingLanguage="PYTHON"
            )
        return facets


def _facet(schema: str, **content: Any) -> dict[str, Any]:
    name = schema.rpartition("/")[2]
    return {"_producer": _PRODUCER, "_schemaURL": f"{_SPEC}/{schema}.json#/$defs/{name}", **content}
