"""Vectors on reliable storage every few iterations, and the way back from there after a crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.storage import Storage, join, read_json
from recsys_spark.train.exchange import Kept, Known
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.model import HalfIteration
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

# They decide how far training goes or where its tasks run, not what an iteration does.
_NOT_IN_FINGERPRINT = {
    "iterations",
    "standing_tasks",
    "tolerance",
    "patience",
    "checkpoint_interval",
    "n_blocks",
    "warm_start",
    "exchange",
}
_RECORD = "checkpoint.json"


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
    storage : Storage
        Of the folder.
    folder : str
    interval : int
        Iterations between two checkpoints.
    """

    def __init__(self, storage: Storage, folder: str, interval: int) -> None:
        self._storage, self._folder, self._interval = storage, folder, interval

    def save_if_due(self, state: LoopState, fingerprints: Fingerprints, best: Kept | None) -> None:
        """Write a checkpoint after every so many iterations, then remove the one before.

        The record is written last, so that a checkpoint without one is none.
        """
        if state.iteration % self._interval:
            return
        name = f"iteration={state.iteration:06}"
        place = join(self._folder, name)
        self._storage.remove(place)
        exchange = state.exchange
        saved = {"vectors": exchange.save(exchange.vectors, join(place, "vectors"))}
        if best is not None and best is not exchange.vectors:
            saved["best"] = exchange.save(best, join(place, "best"))
        record = {
            "fingerprints": asdict(fingerprints),
            "penalties": {side.name: value for side, value in state.penalties.items()},
            "history": [asdict(step) for step in state.history],
            "saved": saved,
        }
        self._storage.write_text(join(place, _RECORD), json.dumps(record))
        for other in self._storage.list_names(self._folder):
            if other != name:
                self._storage.remove(join(self._folder, other))

    def latest(self) -> str | None:
        """Return the place of the newest whole checkpoint."""
        places = [join(self._folder, name) for name in self._storage.list_names(self._folder)]
        whole = [place for place in sorted(places) if self._is_whole(place)]
        return whole[-1] if whole else None

    def folders(self) -> list[str]:
        """Return the folders of vectors that the newest whole checkpoint needs."""
        place = self.latest()
        return [] if place is None else _folders(self._record(place))

    def differing(self, place: str, fingerprints: Fingerprints) -> list[str]:
        """Return what differs between a checkpoint and the training that would go on from it."""
        return fingerprints.differing(self._record(place)["fingerprints"])

    def restore(self, place: str, state: LoopState, users: SideBlocks, items: SideBlocks) -> Kept | None:
        """Put a state back to where the checkpoint was taken, bit for bit; return the best vectors, if kept apart."""
        record = self._record(place)
        state.exchange.vectors = state.exchange.restore(record["saved"]["vectors"], users, items)
        state.penalties = {side: record["penalties"][side.name] for side in (USERS, ITEMS)}
        state.history = [HalfIteration(**step) for step in record["history"]]
        best = record["saved"].get("best")
        return None if best is None else state.exchange.restore(best, users, items)

    def _is_whole(self, place: str) -> bool:
        exists = self._storage.exists
        return exists(join(place, _RECORD)) and all(map(exists, _folders(self._record(place))))

    def _record(self, place: str) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self._storage, join(place, _RECORD))
        return record

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


def fingerprint_of_start(known: Known | None) -> str:
    """Return a hash of the model that training starts from; one pass per side."""
    if known is None:
        return "seed"
    return " ".join(fingerprint_of_observations(known[side]) for side in (USERS, ITEMS))


def _folders(record: Mapping[str, Any]) -> list[str]:
    return [saved[side.name] for saved in record.get("saved", {}).values() for side in (USERS, ITEMS)]
