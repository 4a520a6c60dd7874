"""What was collected about a run -> one HTML file that loads nothing."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from recsys_spark.report import page_charts, page_tables
from recsys_spark.report.page_tables import PageTable, Verdict

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
# What a browser would not show, or would let turn the text around it.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_LONGEST = 400
_SECTIONS = {
    "input": "What came in",
    "features": "What is known of the items",
    "training": "Training",
    "quality": "How good it is",
    "lists": "The lists",
    "users": "A few users",
    "why": "Why",
    "similar": "Similar items",
    "time": "Time and memory",
    "how": "Made from",
}


def run_page(data: dict[str, Any]) -> str:
    """Return the page of a run.

    Parameters
    ----------
    data : dict
        As `page_data.gather` returns it.

    Returns
    -------
    str
        HTML with its style and charts inside; texts from the data are escaped, and what cannot be seen is shown as
        its code. No script, and a policy in the page that lets browsers load nothing.
    """
    records = data["records"]
    view = {
        "input_charts": page_charts.input_charts(data),
        "input_tables": page_tables.input_tables(data),
        "features": page_tables.feature_tables(records),
        "training_charts": _objective(records),
        "training_tables": [page_tables.training_table(records["train"])] if "train" in records else [],
        "quality": _quality(data),
        "lists": _lists(data),
        "users": data.get("users", []),
        "why": page_tables.why_tables(data.get("why", [])),
        "similar": data.get("similar", []),
    }
    shown = {"input": view["input_charts"], "training": view["training_tables"], **view}
    sections = [(key, text) for key, text in _SECTIONS.items() if key in ("time", "how") or shown.get(key)]
    plan = page_tables.plan_table(records["train"]) if "train" in records else None
    return (
        _environment()
        .get_template("run.html")
        .render(
            **view,
            **_common(data, f"{data['run']['config']['name']}, {data['run']['date']}, run {data['run']['run_id']}"),
            name=data["run"]["config"]["name"],
            run=data["run"],
            verdict_of_run=page_tables.verdict_of(records.get("evaluate")),
            headline=page_tables.headline(data),
            sections=sections,
            time_charts=[page_charts.stage_chart(records)] if records else [],
            time_tables=[plan] if plan else [],
            made_from=page_tables.made_from(data),
            config=data["config"],
        )
    )


def compare_page(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Return a page that sets two runs side by side: measures, settings, rows, lists and times."""
    content = [
        {"id": "measures", "title": "Measures", "charts": _both_charts(a, b), "tables": [_both_measures(a, b)]},
        {"id": "settings", "title": "Settings that differ", "charts": [], "tables": [_both_settings(a, b)]},
        {"id": "numbers", "title": "Rows, lists and times", "charts": [], "tables": [_both_numbers(a, b)]},
    ]
    return (
        _environment()
        .get_template("compare.html")
        .render(
            **_common(b, f"{a['run']['run_id']} beside {b['run']['run_id']}"),
            a=a["run"],
            b=b["run"],
            verdict_of_run=_verdict_of_both(a, b),
            sections=[(section["id"], section["title"]) for section in content],
            content=content,
        )
    )


def visible(value: Any) -> Any:
    """Return a text with what cannot be seen as its code, without credentials, and cut where it is very long."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    value = value if len(value) <= _LONGEST or "\n" in value else value[:_LONGEST] + "…"
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found.group()):04x}", _CREDENTIALS.sub("***", value))


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("recsys_spark.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _common(data: dict[str, Any], title: str) -> dict[str, str]:
    return {"title": title, "written": data["written"], "version": data["versions"]["recsys_spark"]}


def _objective(records: dict[str, Any]) -> list[Any]:
    history = records.get("train", {}).get("history")
    return [page_charts.objective_chart(history)] if history else []


def _quality(data: dict[str, Any]) -> dict[str, Any] | None:
    record = data["records"].get("evaluate")
    if not record or not record["metrics"]:
        return None
    charts = page_charts.metric_charts(data)
    calibration = page_charts.calibration(data)
    about = (
        f"Measured on {record['n_held_out']:,} held-out ratings (split: {record['split']}"
        + (f", from {record['from_time']}" if record["from_time"] else "")
        + f"), by the same configuration fitted to {record['n_training']:,} others. The published model has seen all."
    )
    previous = data.get("previous")
    if previous:
        about += f" The run before is {previous['run_id']}."
        if previous["split"] != record["split"]:
            about += " It was measured on another split: its numbers cannot be compared with these."
    tables = page_tables.metrics_tables(record, previous)
    return {"about": about, "charts": [*charts, *([calibration] if calibration else [])], "tables": tables}


def _lists(data: dict[str, Any]) -> dict[str, Any] | None:
    if "lists" not in data or not data["lists"]["entries"]:
        return None
    coverage = page_charts.coverage_chart(data)
    return {
        "charts": [page_charts.popularity_chart(data["lists"]), *([coverage] if coverage else [])],
        "tables": page_tables.list_tables(data["lists"]),
    }


def _measures(data: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    rows = data["records"].get("evaluate", {}).get("metrics", [])
    return {(row["model"], row["metric"]): row for row in rows if row["segment"] == "all"}


def _both_measures(a: dict[str, Any], b: dict[str, Any]) -> PageTable:
    before, after = _measures(a), _measures(b)
    rows: list[list[str]] = []
    marks: dict[tuple[int, str], str] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        one, other = before.get(key), after.get(key)
        name = f"{key[1]} ({key[0]})"
        change = "" if one is None or other is None else f"{other['value'] - one['value']:+.4f}"
        rows.append([name, page_tables.with_interval(one), page_tables.with_interval(other), change])
        if one is not None and other is not None and key[0] in page_charts.OURS:
            marks |= _mark(name, key[1], one, other)
    return PageTable("Measures of A and B, with 95% intervals", ["measure", "A", "B", "B − A"], rows, (1, 2, 3), marks)


def _mark(name: str, metric: str, one: dict[str, Any], other: dict[str, Any]) -> dict[tuple[int, str], str]:
    """Mark a change whose intervals do not meet, as far as it is known which way is better."""
    way = page_charts.direction(metric)
    if way == 0 or one["low"] is None or other["low"] is None:
        return {}
    if other["low"] <= one["high"] and one["low"] <= other["high"]:
        return {}
    return {(3, name): "good" if way * (other["value"] - one["value"]) > 0 else "bad"}


def _both_charts(a: dict[str, Any], b: dict[str, Any]) -> list[Any]:
    return page_charts.comparison_charts(_measures(a), _measures(b), b["run"]["config"]["evaluate"]["n"])


def _both_settings(a: dict[str, Any], b: dict[str, Any]) -> PageTable:
    one, other = _flat(a["run"]["config"]), _flat(b["run"]["config"])
    rows = [
        [key, str(one.get(key, "")), str(other.get(key, ""))]
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]
    return PageTable("Settings", ["setting", "A", "B"], rows or [["none", "", ""]])


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _both_numbers(a: dict[str, Any], b: dict[str, Any]) -> PageTable:
    one, other = _numbers(a), _numbers(b)
    rows = [[name, one.get(name, ""), other.get(name, "")] for name in dict.fromkeys([*one, *other])]
    return PageTable("Rows, lists and seconds", ["", "A", "B"], rows, (1, 2))


def _numbers(data: dict[str, Any]) -> dict[str, str]:
    records = data["records"]
    found = {name.replace("_", " "): f"{n:,}" for name, n in records.get("ingest", {}).get("totals", {}).items()}
    found |= {name: f"{records['index'][f'n_{name}']:,}" for name in ("users", "items") if "index" in records}
    if "lists" in data:
        found |= {"lists": f"{data['lists']['n']:,}", "items in lists": f"{data['lists']['n_listed']:,}"}
    return found | {f"seconds of {stage}": f"{record['seconds']:.1f}" for stage, record in records.items()}


def _verdict_of_both(a: dict[str, Any], b: dict[str, Any]) -> Verdict:
    n = b["run"]["config"]["evaluate"]["n"]
    key = ("model", f"ndcg@{n}")
    one, other = _measures(a).get(key), _measures(b).get(key)
    if one is None or other is None:
        return Verdict("warn", f"Not both runs were measured by NDCG@{n}.")
    records = (a["records"]["evaluate"], b["records"]["evaluate"])
    lines = [] if records[0]["split"] == records[1]["split"] else ["They were measured on different splits."]
    change = other["value"] - one["value"]
    text = f"NDCG@{n}: {one['value']:.4f} in A, {other['value']:.4f} in B ({change:+.4f})"
    marks = _mark("", key[1], one, other)
    kind = "warn" if not marks else marks[3, ""]
    return Verdict(kind, text if marks else f"{text}: their intervals meet", lines)
