"""A small model of the estimator, whose results can be compared between sessions of any kind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession

from recsys_spark.ml import ALS, ALSModel
from recsys_spark.session import build_session

RATINGS = [(f"u{u}", 7 * i, float((u * i) % 5 + 1)) for u in range(6) for i in range(5) if (u + i) % 3]


def results(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Return factors, lists and predictions of a model that was saved and loaded, alone and in a pipeline."""
    ratings = spark.createDataFrame(RATINGS, "user string, item int, rating double")
    path = str(folder.absolute() / "model")
    for _ in range(2):
        ALS(rank=2, maxIter=2, coldStartStrategy="drop").fit(ratings).write().overwrite().save(path)
    model = ALSModel.load(path)
    piped = str(folder.absolute() / "pipeline")
    Pipeline(stages=[ALS(rank=2, maxIter=2, coldStartStrategy="drop")]).fit(ratings).write().save(piped)
    frames = {
        "users": model.userFactors,
        "lists": model.recommendForAllUsers(3, excluded=ratings),
        "predictions": model.transform(ratings),
        "of a pipeline": PipelineModel.load(piped).transform(ratings),
    }
    found: dict[str, Any] = {name: sorted(map(str, frame.collect())) for name, frame in frames.items()}
    assert found["of a pipeline"] == found["predictions"]
    return {**found, "objectives": model.objectiveHistory}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    session = build_session("recsys-small-models")
    (target / "results.json").write_text(json.dumps(results(session, target)), encoding="utf-8")
    session.stop()
