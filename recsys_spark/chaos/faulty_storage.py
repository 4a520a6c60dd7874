"""A storage with one fault: its n-th operation fails, before, in or after its work, or never ends, or all fail then."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from recsys_spark.storage import Storage

Kind = Literal[
    "fails",
    "fails when done",
    "writes half",
    "finds no room",
    "goes away",
    "lists twice",
    "is overtaken",
    "is killed",
    "fails twice",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
OPERATIONS = (
    "find",
    "read_head",
    "read_text",
    "read_bytes",
    "replace_bytes",
    "checksum",
    "write_text",
    "create_if_absent",
    "list_names",
    "exists",
    "remove",
    "free_bytes",
    "check_writable",
)
_WRITES = ("write_text", "create_if_absent")
_LISTS = ("list_names",)


class InjectedError(OSError):
    """What a storage with a fault raises."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes
    ----------
    kind : str
        ``fails``: the operation raises and does nothing. ``fails when done``: it does its work and then raises, so
        that nobody can know. ``writes half``: a temporary file is left half written, and it raises. ``finds no room``:
        the same, and so does every write after it, as on a disk that is full. ``goes away``: this and every later
        operation raises and does nothing. ``lists twice``: names are listed twice, as some object stores do. ``is
        overtaken``: another process does its whole work first. ``is killed``: this process ends by kill -9, in the
        middle of what it writes. ``fails twice``: it fails, and so does an operation of the next attempt.
    number : int
        Of the operation, from 1.
    """

    kind: Kind
    number: int

    def concerns(self, operation: str) -> bool:
        """Return whether the fault can befall an operation."""
        if self.kind in ("writes half", "finds no room"):
            return operation in _WRITES
        return operation in _LISTS if self.kind == "lists twice" else True

    def is_due(self, number: int, operation: str) -> bool:
        """Return whether it befalls the n-th operation, which is of this name."""
        lasts = self.kind in ("finds no room", "goes away") and number > self.number
        return (lasts or number == self.number) and self.concerns(operation)


class FaultyStorage:
    """Another storage with at most one fault; it counts operations.

    Parameters
    ----------
    inner : Storage
    fault : Fault, optional
    overtake : callable, optional
        What the other process does.
    """

    def __init__(self, inner: Storage, fault: Fault | None = None, overtake: Callable[[], None] | None = None) -> None:
        self._inner, self._fault, self._overtake = inner, fault, overtake
        self.operations: list[str] = []
        self.is_injected = False

    def __getattr__(self, name: str) -> Any:
        """Return an operation of the other storage, with the fault where it is due."""
        operation = getattr(self._inner, name)
        if name not in OPERATIONS:
            return operation

        def watched(*arguments: Any) -> Any:
            self.operations.append(name)
            fault = self._fault
            if fault is None or not fault.is_due(len(self.operations), name):
                return operation(*arguments)
            self.is_injected = True
            return self._with_fault(fault, name, operation, arguments)

        return watched

    def _with_fault(self, fault: Fault, name: str, operation: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if fault.kind == "is overtaken":
            assert self._overtake is not None
            self._overtake()
            return operation(*arguments)
        if fault.kind == "lists twice":
            return operation(*arguments) * 2
        if fault.kind in ("writes half", "finds no room", "is killed") and name in _WRITES:
            path, text = arguments
            folder, _, last = path.rpartition("/")
            self._inner.write_text(f"{folder}/.{last}-half", text[: len(text) // 2])
        elif fault.kind == "fails when done":
            operation(*arguments)
        if fault.kind == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InjectedError(f"operation {fault.number}, {name}, {fault.kind}: on purpose")


def with_fault(inner: Storage, fault: Fault | None = None, overtake: Callable[[], None] | None = None) -> Storage:
    """Return a storage with one fault."""
    return cast(Storage, FaultyStorage(inner, fault, overtake))
