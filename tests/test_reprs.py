"""What people see of the objects they hold: one line that tells what it is, and never what is secret or endless."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig, TrainConfig
from recsys_spark.errors import ConfigError, RecsysError, RowError
from recsys_spark.evaluate.trials import Trial
from recsys_spark.evaluate.tuning import Search
from recsys_spark.features.encoder import CellStatistics, FeatureEncoding
from recsys_spark.features.item_features import ItemFeatures
from recsys_spark.index.id_index import IndexPart, IndexVersion
from recsys_spark.ingest.history import HistoryVersion
from recsys_spark.interval import parse_interval
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.ml.ids import NumberedIds
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import LocalStorage
from recsys_spark.storage.hadoop import HadoopStorage
from recsys_spark.tables import LATE_RATINGS, USER_INDEX
from recsys_spark.train.feature_regression import FeatureModel
from recsys_spark.train.model import Factorization, HalfIteration, Vectors
from recsys_spark.train.neighbourhoods import NeighbourModel

N = 5_000


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def model(kind: type[Factorization] = Factorization, **more: Any) -> Factorization:
    degrees = np.ones(N, np.int32)
    return kind(zeros(N, 3), zeros(7, 3), degrees, degrees[:7], 3.5, True, 3.5, **more)


def config(**sections: Any) -> PipelineConfig:
    content = {"name": "night", "input": {"path": "ratings.csv"}, "output": {"path": "runs"}}
    return PipelineConfig.model_validate({**content, **sections})


def context() -> StageContext:
    run = Run("runs", "r1", "2026-01-05")
    none = cast(SparkSession, None)
    return StageContext(none, config(), run, LocalStorage(), Progress(), parse_interval("2026-01-05", None, None))


def encoding() -> FeatureEncoding:
    values = [f"author {n}" for n in range(N)]
    return FeatureEncoding("authors", "multi_valued", {}, 1, N, values, CellStatistics(N, 0, 0, 0.0, 1.0, {}))


STEPS = [HalfIteration(1, "users", 30.0, 20.0, 0.0, 10.0, 0.1), HalfIteration(1, "items", 12.5, 2.5, 0.0, 10.0, 0.1)]
DAYS = {"2026-01-05": {"rows": 1200}, "2026-01-06": {"rows": 34}}
SHOWN = {
    "Factorization: 5,000 users, 7 items, rank 2, biases, loss squared": model(),
    "Factorization: 5,000 users, 7 items, rank 2, biases, loss ials, objective 12.5 after 2 half-iterations": model(
        loss="ials", history=STEPS
    ),
    "NeighbourModel: 5,000 users, 7 items, rank 2, biases, loss squared": model(NeighbourModel),
    "FeatureModel: 5,000 users, 7 items, rank 2, biases, loss squared": model(FeatureModel, column_names=("year",) * N),
    "Vectors: (5000, 3) of users, (7, 3) of items": Vectors(zeros(N, 3), zeros(7, 3)),
    "CsrBlock: 2 rows, 3 entries, 56 bytes": build_csr_block(np.array([7, 7, 3]), np.array([2, 5, 5]), zeros(3)),
    "ItemFeatures: 4,990 items, 10 new ones, 2 columns": ItemFeatures(
        sparse_rows(np.zeros(1, np.int32), np.zeros(1, np.int32), zeros(1), N), np.ones(N, bool), ["a", "b"], N - 10
    ),
    "FeatureEncoding: authors, multi_valued, 5,000 columns from 1": encoding(),
    "NumberedIds: 5,000 users, int64": NumberedIds(USERS, pa.array(range(N))),
    "NumberedIds: 2 items, string": NumberedIds(ITEMS, pa.array(["a", "b"])),
    "IndexVersion: user_index 2, 45 ids of 2 runs": IndexVersion(
        USER_INDEX, "indexes/user_index", 2, (IndexPart("a", 0, 40), IndexPart("b", 40, 5))
    ),
    "HistoryVersion: 3, 1,234 rows of 2 days, 1 of them changed": HistoryVersion(3, "history", DAYS, ["2026-01-06"]),
    "Candidates: 7 items, vectors of 3": Candidates(
        pa.array([str(n) for n in range(7)]), zeros(7, 3), zeros(7), np.arange(N, dtype=np.int32), 3.5, True
    ),
    "Table user_index(user_id string, user_index int), key user_id": USER_INDEX,
    "StageContext: run r1 in runs/runs/date=2026-01-05/run=r1, "
    "2026-01-05T00:00:00+00:00 to 2026-01-06T00:00:00+00:00": context(),
    "LocalStorage()": LocalStorage(),
    "HadoopStorage()": HadoopStorage.__new__(HadoopStorage),
    "Search: 1 settings by ndcg, best 0.12500 with rank=8, alpha=2.0": Search(
        "ndcg", [(trial := Trial(0, {"rank": 8, "alpha": 2.0}, TrainConfig()))], [], trial, 0.125
    ),
    "ConfigError: no such key; where: train.rnk; allowed: rank": ConfigError(
        "no such key", where="train.rnk", allowed="rank"
    ),
    "RowError: not finite; where: user 7": RowError("not finite", "users", 3, where="user 7"),
    "RecsysError: it stopped; got: one; two": RecsysError("it stopped", got="one\n  two"),
}


@pytest.mark.parametrize("line", SHOWN)
def test_one_line_tells_what_it_is(line: str) -> None:
    assert repr(SHOWN[line]) == line


def test_a_table_without_a_key_says_so() -> None:
    assert repr(LATE_RATINGS).endswith("source_file string), key none")


def test_a_configuration_shows_what_is_not_as_by_default() -> None:
    assert repr(TrainConfig()) == "TrainConfig()"
    assert repr(TrainConfig(rank=64, loss="implicit")) == "TrainConfig(loss='implicit', rank=64)"
    shown = repr(config(train={"rank": 64}, recommend={"n": 5}))
    assert shown == (
        "PipelineConfig(name='night', input=InputConfig(path='ratings.csv'), train=TrainConfig(rank=64), "
        "recommend=RecommendConfig(n=5), output=OutputConfig(path='runs'))"
    )
    # What is shown is all that it takes to have the same again.
    assert config(train={"rank": 64}) == config(train=TrainConfig(rank=64).model_dump(exclude_defaults=True))


def test_a_configuration_shows_no_secrets() -> None:
    shown = repr(config(output={"path": "s3a://key:hush@bucket/runs"}))
    assert "hush" not in shown
    assert "s3a://***@bucket/runs" in shown
