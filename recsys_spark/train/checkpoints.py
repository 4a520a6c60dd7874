"""Vectors on reliable storage every few iterations, and the way back from there after a crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Float32Array
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.storage import Storage, join, literal_path, read_json
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.model import HalfIteration, Vectors
from recsys_spark.train.replicate import ReplicateExchange

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_SCHEMA = "name string, first_row int, n_rows int, width int, vectors binary"
_BYTES_PER_CHUNK = 64 << 20
# They decide how far training goes or where its tasks run, not what an iteration does.
_NOT_IN_FINGERPRINT = {"iterations", "tolerance", "patience", "checkpoint_interval", "n_blocks", "warm_start"}


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What has to be the same for training to go on where it was: ratings, settings, code, first vectors."""

    data: str
    config: str
    code: str
    start: str

    def differing(self, other: Mapping[str, str]) -> list[str]:
        """Return the names of those that differ."""
        return [name for name, value in asdict(self).items() if other.get(name) != value]


class Checkpoints:
    """The checkpoints of one training, in a folder of its run.

    Parameters
    ----------
    spark : SparkSession
    storage : Storage
        Of the folder.
    folder : str
    interval : int
        Iterations between two checkpoints.
    """

    def __init__(self, spark: SparkSession, storage: Storage, folder: str, interval: int) -> None:
        self._spark, self._storage, self._folder, self._interval = spark, storage, folder, interval

    def save_if_due(self, state: LoopState, vectors: Vectors, fingerprints: Fingerprints, best: Vectors | None) -> None:
        """Write a checkpoint after every so many iterations, then remove the one before.

        The record is written last, so that a checkpoint without one is none.
        """
        if state.iteration % self._interval:
            return
        name = f"iteration={state.iteration:06}"
        place = join(self._folder, name)
        self._storage.remove(place)
        named = {"users": vectors.users, "items": vectors.items}
        if best is not None and best is not vectors:
            named |= {"best_users": best.users, "best_items": best.items}
        table = pa.Table.from_batches([batch for key, vectors in named.items() for batch in _chunks(key, vectors)])
        self._spark.createDataFrame(table).write.mode("error").parquet(join(place, "vectors"))
        record = {
            "fingerprints": asdict(fingerprints),
            "penalties": {side.name: value for side, value in state.penalties.items()},
            "history": [asdict(step) for step in state.history],
        }
        self._storage.write_text(join(place, "checkpoint.json"), json.dumps(record))
        for other in self._storage.list_names(self._folder):
            if other != name:
                self._storage.remove(join(self._folder, other))

    def latest(self) -> str | None:
        """Return the place of the newest whole checkpoint."""
        places = [join(self._folder, name) for name in self._storage.list_names(self._folder)]
        whole = [place for place in sorted(places) if self._storage.exists(join(place, "checkpoint.json"))]
        return whole[-1] if whole else None

    def differing(self, place: str, fingerprints: Fingerprints) -> list[str]:
        """Return what differs between a checkpoint and the training that would go on from it."""
        return fingerprints.differing(read_json(self._storage, join(place, "checkpoint.json"))["fingerprints"])

    def restore(self, place: str, state: LoopState, exchange: ReplicateExchange) -> Vectors | None:
        """Put a state back to where the checkpoint was taken, bit for bit; return the best vectors, if kept apart."""
        record = read_json(self._storage, join(place, "checkpoint.json"))
        rows = self._spark.read.schema(_SCHEMA).parquet(literal_path(join(place, "vectors"))).toArrow()
        named = _from_chunks(rows)
        exchange.vectors = Vectors(named["users"], named["items"])
        state.penalties = {side: record["penalties"][side.name] for side in (USERS, ITEMS)}
        state.history = [HalfIteration(**step) for step in record["history"]]
        return Vectors(named["best_users"], named["best_items"]) if "best_users" in named else None

    def remove(self) -> None:
        """Remove all checkpoints, when training is over."""
        self._storage.remove(self._folder)


def fingerprint_of_observations(frame: DataFrame) -> str:
    """Return a hash of the observations that does not depend on their order; one pass."""
    hashed = F.xxhash64(*sorted(frame.columns)).cast("decimal(20,0)")
    row = frame.agg(F.count("*").alias("n"), F.sum(hashed).alias("total")).collect()[0]
    return hashlib.sha256(f"{sorted(frame.columns)} {row['n']} {row['total']}".encode()).hexdigest()[:16]


def fingerprint_of_config(config: TrainConfig) -> str:
    """Return a hash of the settings that decide what an iteration does."""
    settings = config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_of_vectors(vectors: Vectors) -> str:
    """Return a hash of the vectors that training starts from."""
    content = hashlib.sha256(vectors.users.tobytes())
    content.update(vectors.items.tobytes())
    return content.hexdigest()[:16]


def _chunks(name: str, vectors: Float32Array) -> list[pa.RecordBatch]:
    n_rows, width = vectors.shape
    step = max(1, _BYTES_PER_CHUNK // (4 * max(width, 1)))
    firsts = range(0, max(n_rows, 1), step)
    parts = [np.ascontiguousarray(vectors[first : first + step]) for first in firsts]
    return [
        pa.RecordBatch.from_pydict(
            {
                "name": pa.array([name]),
                "first_row": pa.array([first], pa.int32()),
                "n_rows": pa.array([n_rows], pa.int32()),
                "width": pa.array([width], pa.int32()),
                "vectors": pa.array([part.tobytes()], pa.binary()),
            }
        )
        for first, part in zip(firsts, parts, strict=True)
    ]


def _from_chunks(rows: pa.Table) -> dict[str, Float32Array]:
    named: dict[str, Float32Array] = {}
    for row in rows.to_pylist():
        whole = named.setdefault(row["name"], np.zeros((row["n_rows"], row["width"]), np.float32))
        part = np.frombuffer(row["vectors"], np.float32).reshape(-1, row["width"])
        whole[row["first_row"] : row["first_row"] + len(part)] = part
    return named
