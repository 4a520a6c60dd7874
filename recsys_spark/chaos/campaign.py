"""Every fault at every operation of every act, and whether readers and the next night are none the worse."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

from recsys_spark.chaos.faulty_storage import KINDS, Fault, FaultyStorage, InjectedError, Kind, with_fault
from recsys_spark.chaos.small_night import run_small_night, small_run, what_readers_see
from recsys_spark.errors import RecsysError
from recsys_spark.publish.retention import plan_removals, remove_all
from recsys_spark.publish.verification import verify
from recsys_spark.runs.lease import Lease, held
from recsys_spark.runs.publication_log import pin_run, publications, roll_back, unpin
from recsys_spark.storage import LocalStorage, Storage, join

# Runs that readers left a moment ago are old then.
_LATER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Act:
    """Something that is done to an output path.

    Attributes
    ----------
    name : str
    nights : tuple of str
        Runs that are published before.
    do : callable
        The act, given the root and a storage.
    before, after : str or None
        The runs that readers may see meanwhile; after it, they see the second.
    prepare : callable, optional
        What else is done before.
    """

    name: str
    nights: tuple[str, ...]
    do: Callable[[str, Storage], None]
    before: str | None
    after: str
    prepare: Callable[[str, Storage], None] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fault: the reason why it was not survived, or None."""

    act: str
    kind: Kind
    operation: str
    number: int
    failure: str | None


def _night(run_id: str) -> Callable[[str, Storage], None]:
    return lambda root, storage: run_small_night(root, run_id, storage)


def _roll_back(root: str, storage: Storage) -> None:
    roll_back(root, storage, small_run(root, "a"))


def _pin(root: str, storage: Storage) -> None:
    pin_run(root, storage, small_run(root, "b"))


def _unpin(root: str, storage: Storage) -> None:
    # An attempt before may have done it.
    if publications(root, storage)[-1].pinned:
        unpin(root, storage)


def _pin_and_publish(root: str, storage: Storage) -> None:
    _pin(root, storage)
    run_small_night(root, "c", storage)


def _collect(root: str, storage: Storage) -> None:
    remove_all(root, plan_removals(root, storage, 1, datetime.now(UTC) + _LATER, timedelta(hours=1)), storage)


def _lease(root: str, storage: Storage) -> None:
    term = timedelta(minutes=1)
    with held(Lease(storage, join(root, "runs"), term), term) as lease:
        lease.renew()
        lease.require()


ACTS = (
    Act("the first night", (), _night("a"), None, "a"),
    Act("a further night", ("a",), _night("b"), "a", "b"),
    Act("a night while another run is pinned", ("a", "b"), _night("c"), "b", "b", _pin),
    Act("rollback", ("a", "b"), _roll_back, "b", "a"),
    Act("pin", ("a", "b"), _pin, "b", "b"),
    Act("unpin", ("a", "b"), _unpin, "b", "c", _pin_and_publish),
    Act("gc", ("a", "b", "c"), _collect, "c", "c"),
    Act("lease", ("a",), _lease, "a", "a"),
)


def run_campaign(
    storage: Storage, root: str, *, most: int | None = None, acts: Sequence[Act] = ACTS
) -> Iterator[Outcome]:
    """Inject every fault that there is, one at a time, each into a folder of its own below ``root``, which is removed.

    Parameters
    ----------
    storage : Storage
    root : str
        A folder that nothing else uses.
    most : int, optional
        Operations of an act that are hit, spread evenly, and all that create an entry.
    acts : sequence of Act

    Yields
    ------
    Outcome
        One per injected fault.
    """
    for act in acts:
        place = join(root, "counted")
        set_up(act, place, storage)
        counting = FaultyStorage(storage)
        act.do(place, cast(Storage, counting))
        storage.remove(place)
        step = 1 if most is None else max(1, -(-len(counting.operations) // most))
        for number, operation in enumerate(counting.operations, 1):
            if number % step and operation != "create_if_absent":
                continue
            for kind in _kinds_on(storage):
                if not Fault(kind, number).concerns(operation):
                    continue
                for again in _operations_of_the_next_attempt(kind, len(counting.operations), step):
                    yield _inject(act, kind, operation, number, again, storage, root)


def _operations_of_the_next_attempt(kind: Kind, n: int, step: int) -> Sequence[int | None]:
    """Return the numbers of those that fail too, one at a time, of about n that there are; None: none fails."""
    return range(1, n + 1, max(1, -(-n // 4), step)) if kind == "fails twice" else [None]


def _kinds_on(storage: Storage) -> tuple[Kind, ...]:
    """Return the faults that can be injected: a process that shares a JVM with this one cannot be killed for it."""
    can_fork = isinstance(storage, LocalStorage) and hasattr(os, "fork")
    return KINDS if can_fork else tuple(kind for kind in KINDS if kind != "is killed")


def _inject(
    act: Act, kind: Kind, operation: str, number: int, again: int | None, storage: Storage, root: str
) -> Outcome:
    place = join(root, f"{kind.replace(' ', '-')}-{number}")
    set_up(act, place, storage)

    def overtake() -> None:
        run_small_night(place, "z", storage)

    faulty = with_fault(storage, Fault(kind, number), overtake)
    attempt: Callable[[], None] = partial(
        _in_a_process_that_is_killed if kind == "is killed" else _in_vain, act, place, faulty
    )
    if again is not None:
        attempt = partial(_twice, attempt, partial(_in_vain, act, place, with_fault(storage, Fault("fails", again))))
    # Whose work came later is what readers see then.
    others = {"z"} if kind == "is overtaken" else set()
    try:
        failure = what_is_wrong(act, place, storage, attempt, others)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    storage.remove(place)
    return Outcome(act.name, kind, operation, number, failure)


def _in_vain(act: Act, place: str, faulty: Storage) -> None:
    with suppress(InjectedError, RecsysError):
        act.do(place, faulty)


def _twice(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


def _in_a_process_that_is_killed(act: Act, place: str, faulty: Storage) -> None:
    with warnings.catch_warnings():
        # That threads of this process are not in the other one: it has to do with files alone, and soon ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            act.do(place, faulty)
        finally:
            os._exit(0)
    status = os.waitpid(process, 0)[1]
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise AssertionError("the process that was to be killed went on")


def what_is_wrong(
    act: Act, place: str, storage: Storage, attempt: Callable[[], None], others: set[str] | None = None
) -> str | None:
    """Let an attempt at an act go wrong, look, do the act, look again, and do a further night.

    Parameters
    ----------
    act : Act
    place : str
        Where it was set up.
    storage : Storage
        Without faults.
    attempt : callable
    others : set of str, optional
        Runs of other processes, which readers may see too.

    Returns
    -------
    str or None
        What a reader or the log has suffered; None where nothing has.
    """
    others = others or set()
    attempt()
    seen = what_readers_see(place, storage)
    if seen not in {act.before, act.after} | others:
        return f"readers see {seen} after the fault"
    act.do(place, storage)
    seen = what_readers_see(place, storage)
    if seen not in {act.after} | others:
        return f"readers see {seen} after another attempt"
    lost = {*act.nights, *others} - {entry.newest_run_id for entry in publications(place, storage)}
    if lost:
        return f"the log has lost {', '.join(sorted(lost))}"
    run_small_night(place, "next", storage)
    faults = verify(place, storage)[1]
    return faults[0] if faults else None


def set_up(act: Act, place: str, storage: Storage) -> None:
    """Do what an act comes after, in a folder that is new."""
    storage.remove(place)
    for run_id in act.nights:
        run_small_night(place, run_id, storage)
    if act.prepare is not None:
        act.prepare(place, storage)
