"""Data of a run's page, as `gather` returns them, without a run."""

from __future__ import annotations

import math
from typing import Any

from recsys_spark.config import PipelineConfig


def metric(model: str, name: str, value: float, half: float | None = 0.01, segment: str = "all") -> dict[str, Any]:
    """Return one row of the metrics."""
    ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
    return {"model": model, "metric": name, "segment": segment, "value": value, **ends, "n": 1200}


def comparison(baseline: str, advantage: float, verdict: str) -> dict[str, Any]:
    """Return the model beside a baseline."""
    ends = {"low": advantage - 0.02, "high": advantage + 0.02}
    return {
        "model": "model",
        "baseline": baseline,
        "metric": "ndcg@10",
        "advantage": advantage,
        **ends,
        "verdict": verdict,
    }


def metrics() -> list[dict[str, Any]]:
    """Return the metrics of a run with lists, ratings and segments."""
    rows = []
    for model, level in (("model", 0.31), ("popularity", 0.12), ("popularity_recent", 0.13)):
        for n, part in ((5, 0.8), (10, 1.0), (20, 1.2)):
            names = {"ndcg": 1.0, "recall": 0.9, "precision": 0.4, "hit_rate": 1.6, "map": 0.6, "mrr": 1.1}
            rows += [metric(model, f"{name}@{n}", level * part * times) for name, times in names.items()]
        rows += [metric(model, f"{name}@10", value, None) for name, value in (("coverage", 0.4), ("gini", 0.7))]
        for segment in ("users of 1 to 9 ratings", "users of 50 or more ratings", "popular items", "rare items"):
            rows.append(metric(model, "recall@10", level * 0.8, 0.02, segment))
    for model, value in (("rating_model", 0.92), ("bias_only", 0.95), ("item_mean", 1.02), ("global_mean", 1.12)):
        rows += [metric(model, "rmse", value), metric(model, "mae", value * 0.8)]
    return rows


def history(n: int) -> list[dict[str, Any]]:
    """Return what half-iterations reached."""
    steps = []
    for k in range(2 * n):
        parts = {"observed": 60_000 + 90_000 * math.exp(-k), "unobserved": 20_000.0, "penalty": 9_000.0 + 500 * k}
        steps.append(
            {"iteration": k // 2 + 1, "side": ("users", "items")[k % 2], "objective": sum(parts.values()), **parts,
             "seconds": 1.5, "validation": None}
        )  # fmt: skip
    return steps


def feature(name: str, kind: str, drift: float | None, **changes: Any) -> dict[str, Any]:
    """Return what a run's record says of a feature."""
    counts = {
        "width": 40,
        "n_missing": 560,
        "n_unreadable": 0,
        "n_unknown_values": 789,
        "n_uses_of_unknown_values": 900,
    }
    return {"name": name, "kind": kind, **counts, "drift": drift, "has_drifted": (drift or 0) > 0.25, **changes}


def page_data(hostile: str = "book 17", **changes: Any) -> dict[str, Any]:
    """Return the data of a page; ``hostile`` stands wherever a text comes from the ratings."""
    content = {"name": "shop", "input": {"path": "s3a://key:secret@bucket/log.csv"}, "output": {"path": "out"}}
    config = PipelineConfig.model_validate(content)
    footprint = {
        "worker_bytes": 3 << 27, "driver_bytes": 1 << 27, "broadcast_bytes": 1 << 24, "returned_bytes": 1 << 23,
        "shuffle_bytes_per_iteration": 0, "blocking_seconds": 4.2, "iteration_seconds": 1.9,
    }  # fmt: skip
    totals = {"rows_in": 1_002_000, "accepted": 1_000_000, "merged": 1_500, "quarantined": 500, "outside_interval": 0}
    starts = dict(zip(("ingest", "index", "train", "recommend", "evaluate", "publish"), range(6), strict=True))
    records: dict[str, Any] = {
        name: {"started": f"2026-01-05T03:00:{10 * k:02}+00:00", "seconds": 9.5} for name, k in starts.items()
    }
    records["ingest"] |= {
        "totals": totals,
        "reasons": {"unparsable_rating": 300, "malformed_line": 200, "bad_weight": 0},
        "files": [{"path": f"/log/{hostile}.csv", **totals}],
        "inputs": [{"path": f"/log/{hostile}.csv", "size": 12_000_000}],
    }
    records["index"] |= {"n_users": 53_000, "n_items": 10_000, "n_ratings": 1_000_000}
    records["features"] = {
        "started": "2026-01-05T03:00:15+00:00", "seconds": 2.0, "n_items": 10_400, "n_new_items": 400,
        "n_without_features": 37, "n_new_without_features": 3, "n_rows_without_item": 2, "n_items_of_several_rows": 5,
        "features": [feature(hostile, "multi_valued", 0.31), feature("year", "numeric", 0.1, n_unreadable=1_234)],
    }  # fmt: skip
    records["train"] |= {
        "label": "squared, rank 32",
        "history": history(8),
        "plan": {"predicted": footprint, "actual": {**footprint, "iteration_seconds": 3.0}},
    }
    records["evaluate"] |= {
        "n_training": 900_000, "n_fold_in": 0, "n_held_out": 100_000, "split": "random", "from_time": None,
        "metrics": metrics(), "history": [],
        "comparisons": [comparison("popularity", 0.19, "better"), comparison("popularity_recent", 0.18, "better")],
        "calibration": [{"n": 90 * k, "predicted": 0.4 * k + 0.8, "actual": 0.38 * k + 0.9} for k in range(1, 11)],
    }  # fmt: skip
    records["publish"] |= {
        "checks": [{"name": "x", "n_broken": 0}],
        "publication": {"number": 3, "published_at": "2026-01-05T03:01:00+00:00"},
    }
    entry = {"item_id": "17", "name": hostile, "score": 4.2, "position": 1, "source": "cf"}
    data = {
        "run": {"run_id": "r1", "date": "2026-01-05", "started": "2026-01-05T03:00:00+00:00", "interval": None,
                "config": config.model_dump(mode="json"), "config_fingerprint": "c" * 16, "code_fingerprint": "d" * 16,
                "version": "1.0", "path": "out/runs/date=2026-01-05/run=r1"},
        "written": "2026-01-05T03:02:00+00:00",
        "records": records,
        "config": config.as_yaml(),
        "versions": {"recsys_spark": "1.0", "spark": "4.3.0"},
        "manifest": "out/manifest.json",
        "previous": {"run_id": "r0", "date": "2026-01-04", "split": "random", "metrics": metrics()[:20]},
        "set_aside": {"unparsable_rating": [{"raw": f"1,{hostile},x", "file": "log.csv"}]},
        "rating_histogram": [{"name": str(k), "n": 40_000 * k} for k in range(1, 6)],
        "activity": {side: [{"name": f"{1 << p}–{(2 << p) - 1}", "n": 5_000 - 400 * p} for p in range(1, 9)]
                     for side in ("users", "items")},
        "lists": {"n": 53_000, "entries": 530_000, "short": 12, "n_items": 10_000, "n_listed": 6_000,
                  "sources": [{"name": "cf", "n": 529_000}, {"name": "popular", "n": 1_000}],
                  "popularity": [{"ratings": 0.2 - 0.02 * k, "places": 0.28 - 0.04 * k} for k in range(7)]},
        "users": [{"user_id": hostile, "n_ratings": 30, "short_reason": None,
                   "history": [{"rating": 5.0, "name": f"{hostile} {k}"} for k in range(12)],
                   "gets": [entry] * 10}] * 3,
        "similar": [{"name": hostile, "model": "cosine", "neighbours": [{"name": hostile, "similarity": 0.9}] * 5}] * 3,
        "why": [{"user_id": hostile, "item": hostile, "score": 4.2, "log_odds": None,
                 "parts": {"mean": 3.5, "item": 0.3},
                 "history": [{"name": hostile, "rating": 5.0, "adds": 0.4}], "others": 0.0, "n_others": 7,
                 "features": [{"name": f"genre={hostile}", "adds": 0.7}], "other_features": 0.1, "n_other_features": 3,
                 "without_features": 3.4}] * 2,
    }  # fmt: skip
    return {**data, **changes}
