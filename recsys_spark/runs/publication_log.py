"""The publication log: numbered entries made by create-if-absent; the highest names the run that readers see.

Publishing, rolling back, pinning and unpinning are all new entries; nothing is ever changed or removed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import Storage, join
from recsys_spark.storage.numbered_log import NumberedLog

log = logging.getLogger(__name__)

# So many writers at once there are not: a storage that goes on refusing does so for another reason.
_MOST_RIVALS = 100

Kind = Literal["publish", "rollback", "pin", "unpin"]


@dataclass(frozen=True, slots=True)
class Publication:
    """One entry: from ``published_at`` on, readers see the tables of the run ``run_id`` of ``date``.

    Attributes
    ----------
    number : int
    run_id, date : str
        The run that readers see.
    published_at : str
        ISO 8601, UTC; for people. The order of the entries is that of their numbers, whatever clocks say.
    kind : {"publish", "rollback", "pin", "unpin"}
    pinned : bool
        Whether readers stay with this run whatever is published, until an unpin.
    newest_run_id, newest_date : str
        The newest published run: another than ``run_id`` after a rollback or while one is pinned.
    forced : list of str
        Checks that the run has failed, and was published in spite of.
    """

    number: int
    run_id: str
    date: str
    published_at: str
    kind: Kind
    pinned: bool
    newest_run_id: str
    newest_date: str
    forced: list[str]

    def run(self, root: str) -> Run:
        """Return the run that readers see."""
        return Run(root, self.run_id, self.date)

    def newest(self, root: str) -> Run:
        """Return the newest published run."""
        return Run(root, self.newest_run_id, self.newest_date)


def log_folder(root: str) -> str:
    """Return where the log of an output path lies."""
    return join(root, "publication_log")


def publications(root: str, storage: Storage) -> list[Publication]:
    """Return all entries, oldest first.

    An entry that is damaged is left out, with a warning: what readers saw before it is whole, and the next run takes
    them on.
    """
    numbered = NumberedLog(storage, log_folder(root))
    entries = []
    for number in numbered.numbers():
        try:
            entries.append(Publication(**numbered.read(number)))
        except (RecsysError, TypeError, UnicodeDecodeError):
            log.warning(f"{numbered.path(number)} is damaged, and left out of the publication log")
    return entries


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


def publish_run(run: Run, storage: Storage, forced: Sequence[str] = ()) -> tuple[Publication, bool]:
    """Make a run the newest one, which readers see unless another is pinned.

    Parameters
    ----------
    run : Run
    storage : Storage
    forced : sequence of str
        Checks that it has failed.

    Returns
    -------
    publication : Publication
    is_new : bool
        False where the run already is in the log, as when a scheduler repeats a stage: a late repetition must
        not take readers back from a newer run, nor forward to one that was rolled back.
    """

    def decide(entries: list[Publication]) -> Publication | None:
        if any(entry.newest(run.root) == run for entry in entries):
            return None
        last = entries[-1] if entries else None
        shown = last.run(run.root) if last is not None and last.pinned else run
        return _entry("publish", shown, run, pinned=last is not None and last.pinned, forced=forced)

    made = _append(run.root, storage, decide)
    if made is not None:
        return made, True
    return next(e for e in publications(run.root, storage) if e.newest(run.root) == run), False


def roll_back(root: str, storage: Storage, to: Run | None = None) -> Publication:
    """Show readers an earlier run again: the one before the one that they see, or a chosen one.

    The next run that is published takes them forward again; `pin_run` keeps them.

    Raises
    ------
    ConfigError
        If there is no such run in the log, or its tables are gone.
    """

    def decide(entries: list[Publication]) -> Publication:
        last = _last(entries, root)
        earlier = [run for run in _way_to_current(entries, root)[:-1] if _is_sealed(run, storage)]
        if to is None and not earlier:
            raise ConfigError("there is no earlier run to go back to", where=log_folder(root))
        run = _known(entries, to, storage) if to is not None else earlier[-1]
        return _entry("rollback", run, last.newest(root), pinned=last.pinned)

    return _append_unless_gone(root, storage, decide)


def pin_run(root: str, storage: Storage, run: Run | None = None) -> Publication:
    """Keep readers with a run, by default the one that they see, whatever is published, until `unpin`.

    Raises
    ------
    ConfigError
        If there is no such run in the log, or its tables are gone.
    """

    def decide(entries: list[Publication]) -> Publication:
        last = _last(entries, root)
        chosen = last.run(root) if run is None else _known(entries, run, storage)
        return _entry("pin", chosen, last.newest(root), pinned=True)

    return _append_unless_gone(root, storage, decide)


def unpin(root: str, storage: Storage) -> Publication:
    """Take readers from the pinned run to the newest one.

    Raises
    ------
    ConfigError
        If no run is pinned.
    """

    def decide(entries: list[Publication]) -> Publication:
        last = _last(entries, root)
        if not last.pinned:
            raise ConfigError("no run is pinned", where=log_folder(root), got=f"readers see run {last.run_id}")
        return _entry("unpin", last.newest(root), last.newest(root), pinned=False)

    return _require(_append(root, storage, decide))


def _way_to_current(entries: list[Publication], root: str) -> list[Run]:
    """Return the runs that led to the one that readers see, oldest first; what was rolled back from is not on it."""
    way: list[Run] = []
    for entry in entries:
        run = entry.run(root)
        if run in way:
            del way[way.index(run) + 1 :]
        else:
            way.append(run)
    return way


def _append(
    root: str, storage: Storage, decide: Callable[[list[Publication]], Publication | None]
) -> Publication | None:
    """Add what ``decide`` makes of the entries so far; where another writer has taken the number, decide again."""
    numbered = NumberedLog(storage, log_folder(root))
    for _ in range(_MOST_RIVALS):
        # Before the entries are read: one that another writer adds meanwhile must not be passed over.
        numbers = numbered.numbers()
        decided = decide(publications(root, storage))
        if decided is None:
            return None
        entry = replace(decided, number=numbers[-1] + 1 if numbers else 1)
        if numbered.append(entry.number, asdict(entry)):
            return entry
    raise RecsysError(
        "no entry could be added to the publication log: every number was taken by another writer",
        where=log_folder(root),
        got=f"{_MOST_RIVALS} attempts",
        remedy="look whether files can be created and renamed there, and give the same command again",
    )


def _append_unless_gone(
    root: str, storage: Storage, decide: Callable[[list[Publication]], Publication | None]
) -> Publication:
    """Add an entry that shows a run again; where its tables have been removed meanwhile, take readers back."""
    made = _require(_append(root, storage, decide))
    if _is_sealed(made.run(root), storage):
        return made

    def undo(entries: list[Publication]) -> Publication | None:
        if entries[-1] != made or len(entries) == 1:
            return None
        before = entries[-2]
        return _entry("rollback", before.run(root), before.newest(root), pinned=before.pinned)

    _append(root, storage, undo)
    raise _gone(made.run(root))


def _entry(kind: Kind, shown: Run, newest: Run, *, pinned: bool, forced: Sequence[str] = ()) -> Publication:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Publication(0, shown.run_id, shown.date, now, kind, pinned, newest.run_id, newest.date, list(forced))


def _last(entries: list[Publication], root: str) -> Publication:
    if not entries:
        raise ConfigError("nothing was published", where=log_folder(root), remedy="run the pipeline first")
    return entries[-1]


def _known(entries: list[Publication], run: Run, storage: Storage) -> Run:
    published = list(dict.fromkeys(entry.newest(run.root) for entry in entries))
    if run not in published:
        raise ConfigError(
            "this run was never published",
            where=log_folder(run.root),
            got=run.run_id,
            allowed=", ".join(each.run_id for each in published[-10:]),
        )
    if not _is_sealed(run, storage):
        raise _gone(run)
    return run


def _gone(run: Run) -> ConfigError:
    return ConfigError(
        "the tables of this run are gone", where=run.path, remedy="choose a run that recsys-spark runs lists"
    )


def _is_sealed(run: Run, storage: Storage) -> bool:
    return storage.exists(run.manifest_path)


def _require(entry: Publication | None) -> Publication:
    assert entry is not None
    return entry
