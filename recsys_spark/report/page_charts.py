"""The charts of a run's page, from what `page_data.gather` has collected."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from recsys_spark.report.charts import (
    Chart,
    bar_chart,
    calibration_chart,
    interval_chart,
    line_chart,
    timeline_chart,
)

OURS = ("model", "rating_model", "by_score_alone")
_LOWER_IS_BETTER = ("rmse", "mae", "log_loss", "calibration_error")
_HIGHER_IS_BETTER = ("r2", "auc", "auc_per_user", "ndcg", "recall", "precision", "hit_rate", "map", "mrr")


def direction(metric: str) -> int:
    """Return 1 where more is better, -1 where less is, 0 where that depends on what is wanted."""
    name = metric.partition("@")[0]
    if name in _LOWER_IS_BETTER:
        return -1
    return 1 if name in _HIGHER_IS_BETTER or name.startswith("sampled_") else 0


def style_of(model: str) -> str:
    """Return how a model is drawn: ours, the run before, or a baseline."""
    return "s1" if model in OURS else "s3" if model.startswith("previous") else "s2"


def input_charts(data: dict[str, Any]) -> list[Chart]:
    """Draw what came in: ratings by value, users and items by activity."""
    charts = []
    if data.get("rating_histogram"):
        bins = data["rating_histogram"]
        most = max(bins, key=lambda part: part["n"])
        # Pages that were collected by an earlier version do not tell.
        n_moved = sum(part.get("n_moved", 0) for part in bins)
        between = f" {n_moved:,} that lie between these values stand at the nearest." if n_moved else ""
        charts.append(
            bar_chart(
                "Ratings by value",
                f"The most common value is {most['name']}, with {most['n']:,} ratings.{between}",
                [part["name"] for part in bins],
                {"ratings": [part["n"] for part in bins]},
                x_title="rating",
                y_title="number of ratings",
            )
        )
    for side, bins in data.get("activity", {}).items():
        if bins:
            most = max(bins, key=lambda part: part["n"])
            charts.append(
                bar_chart(
                    f"{side.capitalize()} by number of ratings",
                    f"Most {side}, {most['n']:,}, have {most['name']} ratings each.",
                    [part["name"] for part in bins],
                    {side: [part["n"] for part in bins]},
                    x_title=f"ratings per {side[:-1]}, each range twice as wide as the one before",
                    y_title=f"number of {side}",
                )
            )
    return charts


def objective_chart(history: list[dict[str, Any]]) -> Chart:
    """Draw the objective after every half-iteration, as a stack of its three parts."""
    names = [f"{step['iteration']}{step['side'][0]}" for step in history]
    first, last = history[0]["objective"], history[-1]["objective"]
    series = {
        "loss on what was observed": [step["observed"] for step in history],
        "loss on all pairs": [step["unobserved"] for step in history],
        "penalty on the factors": [step["penalty"] for step in history],
    }
    return bar_chart(
        "Objective after each half-iteration",
        f"It fell from {first:,.0f} to {last:,.0f} in {len(history)} half-iterations.",
        names,
        {name: values for name, values in series.items() if any(values)},
        x_title="iteration, u: users solved, i: items solved",
        y_title="objective (units of the loss)",
        stacked=True,
    )


def metric_charts(data: dict[str, Any]) -> list[Chart]:
    """Draw the headline measures of the model beside those of the baselines and of the run before."""
    record = data["records"]["evaluate"]
    n = data["run"]["config"]["evaluate"]["n"]
    wanted = {
        f"ndcg@{n}": f"NDCG of lists of {n}",
        f"recall@{n}": f"Recall of lists of {n}",
        "rmse": "RMSE of predicted ratings",
        "log_loss": "Log-loss of predicted labels",
    }
    charts = []
    for metric, title in wanted.items():
        rows = [row for row in record["metrics"] if (row["metric"], row["segment"]) == (metric, "all")]
        before = (data.get("previous") or {}).get("metrics", [])
        rows += [
            {**row, "model": f"previous {row['model']}"}
            for row in before
            if (row["metric"], row["segment"]) == (metric, "all") and row["model"] in OURS
        ]
        if rows:
            better = "lower" if metric in _LOWER_IS_BETTER else "higher"
            own = next((row for row in rows if row["model"] in OURS), rows[0])
            cells = [(row["model"], style_of(row["model"]), row["value"], row["low"], row["high"]) for row in rows]
            summary = f"{own['model']}: {own['value']:.4f}. Lines are 95% intervals over users."
            charts.append(interval_chart(title, summary, cells, x_title=f"{metric}, {better} is better"))
    return charts + _by_segment(record, n) + _by_length(record)


def _by_segment(record: dict[str, Any], n: int) -> list[Chart]:
    """Draw recall by group of users and kind of item."""
    rows = [
        row
        for row in record["metrics"]
        if row["metric"] == f"recall@{n}" and row["segment"] != "all" and row["model"] in ("model", "popularity")
    ]
    if not rows:
        return []
    segments = list(dict.fromkeys(row["segment"] for row in rows))
    cells = [
        (
            segment if row["model"] == "model" else "popularity for these",
            style_of(row["model"]),
            row["value"],
            row["low"],
            row["high"],
        )
        for segment in segments
        for row in rows
        if row["segment"] == segment
    ]
    summary = "The model beside popularity, for users by their training ratings and items by how often they are rated."
    return [
        interval_chart(f"Recall of lists of {n} by segment", summary, cells, x_title=f"recall@{n}, higher is better")
    ]


def _by_length(record: dict[str, Any]) -> list[Chart]:
    """Draw NDCG and hit rate of the model's lists by their length."""
    found: dict[str, dict[int, float]] = {}
    for row in record["metrics"]:
        name, _, length = row["metric"].partition("@")
        if row["model"] == "model" and row["segment"] == "all" and name in ("ndcg", "recall", "precision", "hit_rate"):
            found.setdefault(name, {})[int(length)] = row["value"]
    lengths = sorted({length for values in found.values() for length in values})
    if len(lengths) < 2:
        return []
    return [
        line_chart(
            "The model's lists by length",
            "Measures of the lists cut at several lengths.",
            lengths,
            {name: [values[length] for length in lengths] for name, values in found.items()},
            x_title="items per list",
            y_title="value of the measure (0 to 1)",
        )
    ]


def calibration(data: dict[str, Any]) -> Chart | None:
    """Draw the calibration of the predictions; None where there are none."""
    bins = data["records"]["evaluate"]["calibration"]
    if not bins:
        return None
    is_probability = data["run"]["config"]["train"]["loss"] == "logistic"
    worst = max(bins, key=lambda part: abs(part["predicted"] - part["actual"]))
    return calibration_chart(
        "Calibration",
        f"Furthest off where {worst['predicted']:.2f} was predicted and {worst['actual']:.2f} was the mean.",
        bins,
        unit="probability" if is_probability else "rating",
    )


def popularity_chart(lists: dict[str, Any]) -> Chart:
    """Draw which share of the ratings, and of the places in lists, each tenth of the items has."""
    groups = lists["popularity"]
    return bar_chart(
        "Who gets the places",
        f"The most rated tenth of the items has {groups[0]['ratings']:.0%} of the ratings and "
        f"{groups[0]['places']:.0%} of the places in lists.",
        ["most rated", *(str(number) for number in range(2, len(groups))), "least"],
        {
            "share of the ratings": [100 * group["ratings"] for group in groups],
            "share of the places": [100 * group["places"] for group in groups],
        },
        x_title="tenths of the items, by number of ratings",
        y_title="share (%)",
        unit="%",
    )


def coverage_chart(data: dict[str, Any]) -> Chart | None:
    """Draw which share of the items is in any measured list, by model; None where nothing was measured."""
    record, n = data["records"].get("evaluate") or {"metrics": []}, data["run"]["config"]["evaluate"]["n"]
    wanted = (f"coverage@{n}", "all")
    rows = [row for row in record["metrics"] if (row["metric"], row["segment"]) == wanted]
    before = (data.get("previous") or {}).get("metrics", [])
    rows += [
        {**row, "model": f"previous {row['model']}"}
        for row in before
        if (row["metric"], row["segment"]) == wanted and row["model"] in OURS
    ]
    if not rows:
        return None
    cells = [(row["model"], style_of(row["model"]), row["value"], None, None) for row in rows]
    summary = f"Lists of {n} by {rows[0]['model']} hold {rows[0]['value']:.1%} of the {rows[0]['n']:,} items."
    return interval_chart("Coverage", summary, cells, x_title="share of the items that are in any list (0 to 1)")


def stage_chart(records: dict[str, dict[str, Any]]) -> Chart:
    """Draw when each stage ran."""
    started = {name: datetime.fromisoformat(record["started"]) for name, record in records.items()}
    first = min(started.values())
    spans = [(name, (started[name] - first).total_seconds(), record["seconds"]) for name, record in records.items()]
    total = sum(length for _, _, length in spans)
    slowest = max(spans, key=lambda span: span[2])
    summary = f"{total:.0f} s in all; {slowest[0]} took longest, {slowest[2]:.0f} s."
    return timeline_chart("Stages", summary, spans, x_title="seconds since the first stage began")


def comparison_charts(
    before: dict[tuple[str, str], dict[str, Any]], after: dict[tuple[str, str], dict[str, Any]], n: int
) -> list[Chart]:
    """Draw the headline measures of two runs, each row's model and run named."""
    charts = []
    for metric in (f"ndcg@{n}", f"recall@{n}", f"coverage@{n}", "rmse", "log_loss"):
        cells: list[tuple[str, str, float, float | None, float | None]] = []
        said: list[str] = []
        for (model, name), row in after.items():
            if name == metric:
                other = before.get((model, name))
                if other is not None:
                    cells.append((f"A, {model}", "s2", other["value"], other["low"], other["high"]))
                    said.append(f"{model}: {other['value']:.4f} in A, {row['value']:.4f} in B.")
                cells.append((f"B, {model}", "s1", row["value"], row["low"], row["high"]))
        if cells:
            better = {1: ", higher is better", -1: ", lower is better", 0: ""}[direction(metric)]
            # The first is ours: baselines are measured after it.
            summary = said[0] if said else f"{cells[0][0]}: {cells[0][2]:.4f}."
            charts.append(interval_chart(metric, summary, cells, x_title=f"{metric}{better}"))
    return charts
