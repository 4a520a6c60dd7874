"""The tables, facts and verdict of a run's page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recsys_spark.byte_sizes import human_size

_PARTS = {
    "mean": "mean of all",
    "item": "the item itself, whoever it is for",
    "damping": "damping, for it is popular",
    "unobserved": "what was not rated",
    "unsettled": "left over by training",
}


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table.

    ``numbers`` are the columns that stand right; ``marks`` are styles, and ``notes`` what stands below a cell, by
    column and first cell of the row.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    numbers: tuple[int, ...] = ()
    marks: dict[tuple[int, str], str] = field(default_factory=dict)
    notes: dict[tuple[int, str], str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands first on the page: ``kind`` is ``good``, ``warn`` or ``bad``."""

    kind: str
    text: str
    lines: list[str] = field(default_factory=list)


def verdict_of(record: dict[str, Any] | None) -> Verdict:
    """Say whether the model beats every baseline.

    Parameters
    ----------
    record : dict or None
        Of the evaluate stage; None: it is not done.

    Returns
    -------
    Verdict
        ``bad`` where a baseline is as good or better; ``warn`` where an interval leaves it open, or nothing was
        measured.
    """
    if record is None or not record["comparisons"]:
        return Verdict("warn", "Nothing was measured: nobody knows how good these lists are.")
    compared = record["comparisons"]
    lost = [row for row in compared if row["advantage"] <= 0]
    unclear = [row for row in compared if row["advantage"] > 0 and row["verdict"] != "better"]
    if lost:
        # Runs of earlier versions have no advice.
        advised = [record["advice"]] if record.get("advice") else []
        lines = [_beside(row) for row in lost + unclear] + advised
        return Verdict("bad", "The model does not beat its baselines.", lines)
    if unclear:
        return Verdict("warn", "The model is not clearly above its baselines.", [_beside(row) for row in unclear])
    return Verdict("good", f"The model beats every baseline ({len(compared)} comparisons).")


def _beside(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None else f", 95% interval {row['low']:+.4f} to {row['high']:+.4f}"
    return f"{row['model']} beside {row['baseline']} by {row['metric']}: {row['advantage']:+.4f}{interval}"


def headline(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the facts at the top: name, value, and a note."""
    records, facts = data["records"], []
    if "ingest" in records:
        totals = records["ingest"]["totals"]
        note = f"{totals['quarantined']:,} set aside, {totals['merged']:,} merged"
        facts.append(("Rows in", f"{totals['rows_in']:,}", note))
    if "index" in records:
        index = records["index"]
        facts.append(("Ratings", f"{index['n_ratings']:,}", f"{index['n_users']:,} users, {index['n_items']:,} items"))
    for metric, row in _own_measures(data):
        half = "" if row["low"] is None else f"95%: {row['low']:.4f} to {row['high']:.4f}"
        facts.append((metric, f"{row['value']:.4f}", half))
    if "lists" in data:
        lists = data["lists"]
        note = f"{lists['n_listed'] / max(lists['n_items'], 1):.0%} of the items are in one"
        facts.append(("Lists", f"{lists['n']:,}", note))
    seconds = sum(record["seconds"] for record in records.values())
    facts.append(("Time", f"{seconds:,.0f} s", "all stages"))
    return facts


def _own_measures(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    record = data["records"].get("evaluate")
    n = data["run"]["config"]["evaluate"]["n"]
    names = {f"ndcg@{n}": f"NDCG@{n}", "rmse": "RMSE", "log_loss": "Log-loss"}
    found = []
    for metric, name in names.items():
        for row in (record or {"metrics": []})["metrics"]:
            if (row["metric"], row["segment"]) == (metric, "all") and row["model"] in ("model", "rating_model"):
                found.append((name, row))
    return found


def input_tables(data: dict[str, Any]) -> list[PageTable]:
    """Return where every row went, and what was set aside, with samples."""
    if "ingest" not in data["records"]:
        return []
    record = data["records"]["ingest"]
    names = ("rows_in", "accepted", "merged", "quarantined")
    files = record["files"][:20]
    rows = [[file["path"], *(f"{file[name]:,}" for name in names)] for file in files]
    rows.append(["all files", *(f"{record['totals'][name]:,}" for name in names)])
    tables = [PageTable("Rows by file", ["file", "in", "accepted", "merged", "set aside"], rows, (1, 2, 3, 4))]
    counts = {reason: count for reason, count in record["reasons"].items() if count}
    samples = [
        [reason.replace("_", " "), f"{count:,}", sample["raw"]]
        for reason, count in counts.items()
        for sample in data.get("set_aside", {}).get(reason, [{"raw": ""}])
    ]
    if samples:
        tables.append(PageTable("Set aside, with samples", ["reason", "rows", "a row as it stood"], samples, (1,)))
    return tables


def feature_tables(records: dict[str, Any]) -> list[PageTable]:
    """Return what the cells of each known feature are like, and how many items have none; nothing without features."""
    if "features" not in records:
        return []
    record = records["features"]
    header = ["feature", "kind", "columns", "items without", "no numbers", "values without a column", "drift"]
    rows, marks = list[list[str]](), dict[tuple[int, str], str]()
    for one in record["features"]:
        counts = (one["width"], one["n_missing"], one["n_unreadable"], one["n_unknown_values"])
        rows.append([one["name"], one["kind"], *(f"{count:,}" for count in counts), _drift(one)])
        if one["has_drifted"]:
            marks[6, one["name"]] = "bad"
    totals = [
        ["items in the table", record["n_items"]],
        ["of them, rated by nobody", record["n_new_items"]],
        ["rated items without features", record["n_without_features"]],
        ["new items without features", record["n_new_without_features"]],
        ["rows without an item", record["n_rows_without_item"]],
        ["items of several rows", record["n_items_of_several_rows"]],
    ]
    return [
        PageTable("Known features of the items", header, rows, (2, 3, 4, 5, 6), marks),
        PageTable("Items with features", ["", "number"], [[name, f"{count:,}"] for name, count in totals], (1,)),
    ]


def _drift(one: dict[str, Any]) -> str:
    """Return how far a feature has moved since the published encoder, in the unit of its kind."""
    if one["drift"] is None:
        # What was constant has no unit to measure by; without an encoder to compare with, nothing is told.
        return "no longer constant" if one["has_drifted"] else ""
    return f"{one['drift']:.3g} deviations" if one["kind"] == "numeric" else f"{one['drift']:.0%} of the values"


def metrics_tables(record: dict[str, Any], previous: dict[str, Any] | None) -> list[PageTable]:
    """Return all measures over all users, the model beside baselines and the run before: of lists, and of errors."""
    rows = [row for row in record["metrics"] if row["segment"] == "all"]
    kinds = {
        "Measures of lists, with 95% intervals over users": [row for row in rows if "@" in row["metric"]],
        "Errors, with 95% intervals over users": [row for row in rows if "@" not in row["metric"]],
    }
    return [_metrics_table(title, part, record, previous) for title, part in kinds.items() if part]


def _metrics_table(
    title: str, rows: list[dict[str, Any]], record: dict[str, Any], previous: dict[str, Any] | None
) -> PageTable:
    models = list(dict.fromkeys(row["model"] for row in rows))
    before = {(r["model"], r["metric"]): r for r in (previous or {"metrics": []})["metrics"] if r["segment"] == "all"}
    header = ["measure", *models, *(["previous run"] if previous else []), "measured on"]
    table = PageTable(title, header, [], tuple(range(1, len(header))))
    losers = {(row["baseline"], row["metric"]) for row in record["comparisons"] if row["advantage"] <= 0}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        by_model = {row["model"]: row for row in rows if row["metric"] == metric}
        own = next((row for name, row in by_model.items() if name in ("model", "rating_model")), None)
        found = [by_model.get(model) for model in models]
        if previous:
            found.append(before.get((own["model"], metric)) if own else None)
        for column, row in enumerate(found, 1):
            if row is not None and row["low"] is not None:
                table.notes[column, metric] = f"{row['low']:.4f} to\u00a0{row['high']:.4f}"
        n = next(iter(by_model.values()))["n"]
        table.rows.append([metric, *("" if row is None else f"{row['value']:.4f}" for row in found), f"{n:,}"])
        marked = {(1 + models.index(model), metric): "bad" for model, name in losers if name == metric}
        table.marks.update(marked)
    return table


def with_interval(row: dict[str, Any] | None) -> str:
    """Return a value with its interval; nothing where there is none."""
    if row is None:
        return ""
    if row["low"] is None:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"


def list_tables(lists: dict[str, Any]) -> list[PageTable]:
    """Return how many lists there are, and what made their entries."""
    rows = [
        ["lists", f"{lists['n']:,}"],
        ["entries", f"{lists['entries']:,}"],
        ["lists shorter than asked for", f"{lists['short']:,}"],
        ["items in at least one list", f"{lists['n_listed']:,} of {lists['n_items']:,}"],
        *([f"entries made by {source['name']}", f"{source['n']:,}"] for source in lists["sources"]),
    ]
    return [PageTable("What was written", ["", "number"], rows, (1,))]


def why_tables(explained: list[dict[str, Any]]) -> list[PageTable]:
    """Return what adds up to the score of a few users' first items, of a regression by features too."""
    tables = []
    for one in explained:
        rows = [[_PARTS[name], f"{value:+.4f}"] for name, value in one["parts"].items()]
        rows += [[f"rated {row['rating']:g}: {row['name']}", f"{row['adds']:+.4f}"] for row in one["history"]]
        if one["n_others"] > 0:
            rows.append([f"{one['n_others']} other ratings", f"{one['others']:+.4f}"])
        title = f"Why user {one['user_id']} gets {one['item']}"
        tables.append(PageTable(title, ["what", "adds"], [*rows, _score_row(one)], (1,)))
        if one["without_features"] is not None:
            rows = [[row["name"], f"{row['adds']:+.4f}"] for row in one["features"]]
            if one["n_other_features"] > 0:
                rows.append([f"{one['n_other_features']} other features", f"{one['other_features']:+.4f}"])
            rows.append(["without any of them, for this user", f"{one['without_features']:+.4f}"])
            tables.append(PageTable(f"{title}, by features", ["feature", "adds"], [*rows, _score_row(one)], (1,)))
    return tables


def _score_row(one: dict[str, Any]) -> list[str]:
    if one["log_odds"] is None:
        return ["score", f"{one['score']:.4f}"]
    return [f"log-odds, a probability of {one['score']:.4f}", f"{one['log_odds']:.4f}"]


def plan_table(record: dict[str, Any]) -> PageTable | None:
    """Return what training was predicted to take beside what it took; None where nothing was predicted."""
    plan = record.get("plan") or {}
    predicted, actual = plan.get("predicted"), plan.get("actual")
    if not predicted or not actual:
        return None
    kinds = {
        "memory of a worker": ("worker_bytes", human_size),
        "memory of the driver's Python": ("driver_bytes", human_size),
        "sent to every worker per iteration": ("broadcast_bytes", human_size),
        "returned per iteration": ("returned_bytes", human_size),
        "shuffled per iteration": ("shuffle_bytes_per_iteration", human_size),
        "time to block the ratings": ("blocking_seconds", _seconds),
        "time per iteration": ("iteration_seconds", _seconds),
    }
    rows = [
        # Numbers stay on a line with their units.
        [name, *(say(of[key]).replace(" ", "\u00a0") for of in (predicted, actual))]
        for name, (key, say) in kinds.items()
        if predicted[key] is not None and actual[key] is not None
    ]
    return PageTable("Training, predicted and actual", ["", "predicted", "actual"], rows, (1, 2))


def training_table(record: dict[str, Any]) -> PageTable:
    """Return what was trained, and how it ended."""
    history = record["history"]
    rows = [["model", record["label"]], ["half-iterations", str(len(history))]]
    if history:
        rows.append(["objective", f"{history[0]['objective']:,.1f} to {history[-1]['objective']:,.1f}"])
        rows.append(["time per half-iteration", _seconds(sum(step["seconds"] for step in history) / len(history))])
        losses = [step["validation"] for step in history if step["validation"] is not None]
        if losses:
            rows.append(["best loss on ratings kept back", f"{min(losses):.5f}"])
    return PageTable("What was trained", ["", ""], rows, (1,))


def made_from(data: dict[str, Any]) -> list[PageTable]:
    """Return versions, fingerprints and places."""
    run, records = data["run"], data["records"]
    rows = [[name, version] for name, version in data["versions"].items()]
    rows += [["configuration", run["config_fingerprint"]], ["code", run["code_fingerprint"]]]
    places = [["run", run["path"]], ["manifest", data["manifest"] or "none: the run is not published"]]
    if "publish" in records:
        publication = records["publish"]["publication"]
        places.append(["publication", f"entry {publication['number']}, {publication['published_at']}"])
        checks = records["publish"]["checks"]
        places.append(["gate", f"{sum(not check['n_broken'] for check in checks)} of {len(checks)} checks passed"])
    places += [
        [f"input, {human_size(file['size'])}", file["path"]]
        for file in records.get("ingest", {}).get("inputs", [])[:20]
    ]
    return [
        PageTable("Versions and fingerprints", ["", ""], rows, (1,)),
        PageTable("Places", ["", ""], places),
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s"
