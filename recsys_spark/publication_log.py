"""The publication log: numbered entries made by create-if-absent; the highest is what readers see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from recsys_spark.errors import ConfigError
from recsys_spark.numbered_log import NumberedLog
from recsys_spark.run_directory import Run
from recsys_spark.storage import Storage, join


@dataclass(frozen=True, slots=True)
class Publication:
    """One entry: from ``published_at`` on, readers see the tables of this run."""

    number: int
    run_id: str
    date: str
    published_at: str

    def run(self, root: str) -> Run:
        """Return the run that was published."""
        return Run(root, self.run_id, self.date)


def log_folder(root: str) -> str:
    """Return where the log of an output path lies."""
    return join(root, "publication_log")


def publications(root: str, storage: Storage) -> list[Publication]:
    """Return all entries, oldest first."""
    log = NumberedLog(storage, log_folder(root))
    return [Publication(**log.read(number)) for number in log.numbers()]


def current_publication(root: str, storage: Storage, date: str | None = None) -> Publication:
    """Return the newest entry, or the newest of one date.

    Raises
    ------
    ConfigError
        If nothing was published there, or not for that date.
    """
    entries = publications(root, storage)
    wanted = [entry for entry in entries if date is None or entry.date == date]
    if not wanted:
        dates = sorted({entry.date for entry in entries})
        raise ConfigError(
            "nothing was published" + (f" for {date}" if date else ""),
            where=log_folder(root),
            allowed=", ".join(dates[-10:]) if date and dates else "",
            remedy="run the pipeline first" if not entries else "give one of these dates",
        )
    return wanted[-1]


def publish_run(run: Run, storage: Storage) -> tuple[Publication, bool]:
    """Make a run the one that readers see.

    A number that another writer took first is left to it, and the next one is tried: of two that race, both
    are in the log, in some order, and readers see the later one whole.

    Returns
    -------
    publication : Publication
    is_new : bool
        False where the run already is in the log, as when a scheduler repeats a stage: a late repetition must
        not take readers back from a newer run.
    """
    while True:
        entries = publications(run.root, storage)
        published = [entry for entry in entries if (entry.run_id, entry.date) == (run.run_id, run.date)]
        if published:
            return published[-1], False
        number = entries[-1].number + 1 if entries else 1
        entry = Publication(number, run.run_id, run.date, datetime.now(UTC).isoformat(timespec="seconds"))
        if NumberedLog(storage, log_folder(run.root)).append(number, asdict(entry)):
            return entry, True
