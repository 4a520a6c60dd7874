"""A lock on a run that outlives no owner: it ends by itself when its owner stops renewing it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from recsys_spark.errors import DamagedFileError, RecsysError
from recsys_spark.storage import Storage, join
from recsys_spark.storage.numbered_log import NumberedLog

log = logging.getLogger(__name__)

_RENEWALS_PER_TERM = 3
# What is known of a process whose start cannot be seen.
_RUNNING = "running"
# Leases of this process that it still works under: another that it took and did not give up belongs to nobody.
_HELD: set[str] = set()


def _now() -> datetime:
    return datetime.now(UTC)


class Lease:
    """One owner at a time works on a folder; each hold of it is a numbered entry, and nobody gets the same number.

    Parameters
    ----------
    storage : Storage
    folder : str
    term : timedelta
        How long an owner that is not heard of keeps it. An owner on this machine whose process is gone loses it at
        once.
    doing : str
        What its owner is doing, in words.
    now : callable, optional
        The clock. One that goes back keeps a lease longer. Machines whose clocks differ by more than the term would
        take leases early.

    Attributes
    ----------
    is_lost : bool
        Whether another owner has taken it.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        term: timedelta,
        now: Callable[[], datetime] | None = None,
        *,
        doing: str = "working on this run",
    ) -> None:
        self._log, self._doing = NumberedLog(storage, join(folder, "lease")), doing
        self._storage, self._term, self._now = storage, term, now or _now
        self._owner = {"host": _host(), "pid": os.getpid(), "started": _process_start(os.getpid())}
        self._token = secrets.token_hex(8)
        self._number = 0
        self._lock = threading.Lock()
        self.is_lost = False

    def take(self) -> None:
        """Take the lease.

        Raises
        ------
        RecsysError
            If another owner has it.
        """
        number = self.require_free() + 1
        if not self._log.append(number, self._entry()):
            raise self._taken(self._log.read(number))
        self._number = number
        _HELD.add(self._token)

    def require_free(self) -> int:
        """Return the number of the latest entry, 0 where there is none.

        Raises
        ------
        RecsysError
            If another owner has the lease.
        """
        numbers = self._log.numbers()
        latest = self._read(numbers[-1]) if numbers else None
        if latest is not None and not self._is_over(latest):
            raise self._taken(latest)
        return numbers[-1] if numbers else 0

    def renew(self) -> None:
        """Hold the lease for another term; where another owner has taken it meanwhile, it is lost."""
        with self._lock:
            if self._number and not self.is_lost:
                numbers = self._log.numbers()
                self.is_lost = numbers[-1:] != [self._number] or not self._log.append(self._number + 1, self._entry())
                self._number += 1

    def require(self) -> None:
        """Raise RecsysError where another owner has taken the lease: what this one writes now would hurt."""
        with self._lock:
            self.is_lost |= self._log.numbers()[-1:] != [self._number]
        if self.is_lost:
            raise RecsysError(
                "another process has taken over this run",
                where=self._log.folder,
                remedy="this one was not heard of for longer than output.lease_minutes; let the other one finish",
            )

    def release(self) -> None:
        """Give the lease up; the next owner need not wait."""
        with self._lock:
            _HELD.discard(self._token)
            if not self._number or self.is_lost:
                return
            if self._log.append(self._number + 1, {**self._entry(), "released": True}):
                for number in self._log.numbers()[:-1]:
                    self._storage.remove(self._log.path(number))
            self._number = 0

    def _read(self, number: int) -> dict[str, Any] | None:
        """Return an entry, None if it is damaged: whoever works under it makes the next one, and finds it taken."""
        try:
            return self._log.read(number)
        except DamagedFileError:
            return None

    def _entry(self) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "token": self._token,
            "expires": (self._now() + self._term).isoformat(timespec="seconds"),
            "released": False,
        }

    def _is_over(self, entry: dict[str, Any]) -> bool:
        return bool(entry["released"]) or datetime.fromisoformat(entry["expires"]) < self._now() or self._is_dead(entry)

    def _is_dead(self, entry: dict[str, Any]) -> bool:
        """Return whether the owner was a process of this machine that is gone, as after kill -9, or has given up."""
        owner = entry["owner"]
        if owner == self._owner:
            return entry["token"] not in _HELD
        # Of another user's process only that it is there can be seen.
        return owner["host"] == self._owner["host"] and _process_start(owner["pid"]) not in (owner["started"], _RUNNING)

    def _taken(self, entry: dict[str, Any]) -> RecsysError:
        owner = entry["owner"]
        machine = owner["host"].partition(" ")[0]
        return RecsysError(
            f"another process is {self._doing}",
            where=self._log.folder,
            got=f"process {owner['pid']} on {machine}, until {entry['expires']} unless it renews",
            remedy="let it finish, or end it and try again: of a process that is gone, it ends by itself",
        )


def lease_to_forget(root: str, storage: Storage, term: timedelta) -> Lease:
    """Return the lease of whoever takes a person out of all runs of an output path: no run may work meanwhile."""
    return Lease(storage, join(root, "forgetting"), term, doing="forgetting a person")


@contextmanager
def held(lease: Lease, term: timedelta) -> Iterator[Lease]:
    """Hold a lease while something is done, renewing it in the background; give it up at the end."""
    lease.take()
    over = threading.Event()

    def renew() -> None:
        while not over.wait(term.total_seconds() / _RENEWALS_PER_TERM):
            # The storage may be back before the term is over; `require` decides.
            with suppress(Exception):
                lease.renew()

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()
        try:
            lease.release()
        except Exception as error:
            # What was done under it is done, and it ends by itself.
            log.warning(f"a lease could not be given up: {error}")


def _host() -> str:
    """Return where numbers of processes mean the same: a machine, or a container that may have its machine's name."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (it leads nowhere)
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine began, None where there is none; numbers of processes are used again."""
    try:
        # After the name, which may hold anything but is in parentheses; the field is 22nd.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return None if stat[0] == "Z" else f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {stat[19]}"
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return _RUNNING
