"""A run as OpenMetrics text, for whatever collects numbers: a text file collector, or a push gateway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

_PREFIX = "recsys"


def open_metrics(run: dict[str, Any], records: dict[str, dict[str, Any]]) -> str:
    """Return the numbers of a run.

    Parameters
    ----------
    run : dict
        ``run.json``.
    records : dict of str to dict
        What the stages that are done have written down, by stage.

    Returns
    -------
    str
        Gauges, each with the label ``pipeline``; ends with ``# EOF``. Measures that are not finite are left out. The
        run's id is a label of ``recsys_run_info`` alone, so that the other series stay the same from run to run.
    """
    labels = {"pipeline": run["config"]["name"]}
    info = {**labels, "run_id": run["run_id"], "date": run["date"], "version": run["version"]}
    families = [
        _family("run_info", "the run that these numbers are of", [(info, 1)]),
        _family(
            "run_started_timestamp_seconds",
            "when the run began",
            [(labels, datetime.fromisoformat(run["started"]).timestamp())],
            unit="seconds",
        ),
        _family(
            "stage_duration_seconds",
            "time that each stage took",
            [({**labels, "stage": name}, record["seconds"]) for name, record in records.items()],
            unit="seconds",
        ),
        _family("rows", "raw rows, by what became of them", _rows(labels, records.get("ingest", {}))),
        _family("quarantined_rows", "rows set aside, by reason", _reasons(labels, records.get("ingest", {}))),
        _family("size", "users, items and ratings", _sizes(labels, records.get("index", {}))),
        _family("objective", "what training minimised, after its last half-iteration", _objective(labels, records)),
        _family("measure", "held-out measures of the model and its baselines", _measures(labels, records, "value")),
        _family("measure_low", "lower ends of their 95% intervals", _measures(labels, records, "low")),
        _family("measure_high", "upper ends of their 95% intervals", _measures(labels, records, "high")),
        _family("beats_baseline", "1: better; 0: not told apart; -1: worse", _comparisons(labels, records)),
        _family("published", "1 where readers see the run's tables, or have seen them", _published(labels, records)),
    ]
    return "".join(families) + "# EOF\n"


_Samples = Iterable[tuple[Mapping[str, str], float | None]]


def _family(name: str, about: str, samples: _Samples, unit: str = "") -> str:
    full = f"{_PREFIX}_{name}"
    lines = [
        f"{full}{_labels(labels)} {_number(value)}"
        for labels, value in samples
        if value is not None and math.isfinite(value)
    ]
    if not lines:
        return ""
    head = [f"# TYPE {full} gauge", *([f"# UNIT {full} {unit}"] if unit else []), f"# HELP {full} {_escaped(about)}"]
    return "\n".join([*head, *lines]) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _rows(labels: dict[str, str], record: dict[str, Any]) -> _Samples:
    return [({**labels, "kind": kind}, count) for kind, count in record.get("totals", {}).items()]


def _reasons(labels: dict[str, str], record: dict[str, Any]) -> _Samples:
    return [({**labels, "reason": reason}, count) for reason, count in record.get("reasons", {}).items()]


def _sizes(labels: dict[str, str], record: dict[str, Any]) -> _Samples:
    kinds = [kind for kind in ("users", "items", "ratings") if f"n_{kind}" in record]
    return [({**labels, "of": kind}, record[f"n_{kind}"]) for kind in kinds]


def _objective(labels: dict[str, str], records: dict[str, dict[str, Any]]) -> _Samples:
    history = records.get("train", {}).get("history", [])
    parts = ("objective", "observed", "unobserved", "penalty")
    return [({**labels, "part": part}, history[-1][part]) for part in parts] if history else []


def _measures(labels: dict[str, str], records: dict[str, dict[str, Any]], key: str) -> _Samples:
    return [
        ({**labels, **{name: row[name] for name in ("model", "metric", "segment")}}, row[key])
        for row in records.get("evaluate", {}).get("metrics", [])
    ]


def _comparisons(labels: dict[str, str], records: dict[str, dict[str, Any]]) -> _Samples:
    values = {"better": 1, "not told apart": 0, "worse": -1}
    return [
        ({**labels, **{name: row[name] for name in ("model", "baseline", "metric")}}, values[row["verdict"]])
        for row in records.get("evaluate", {}).get("comparisons", [])
    ]


def _published(labels: dict[str, str], records: dict[str, dict[str, Any]]) -> _Samples:
    return [(labels, int("publish" in records))]
