"""Blocks as memory-mapped files on the machine of the worker that assembled them.

Ratings do not change while a model is trained, so that a task needs only its block's number when the
machine it runs on still has the file; only factors then cross from the JVM to Python and back.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.machine_folder import machine_folder, reject_full_disk, remove_stale

log = logging.getLogger(__name__)

_FIELDS = ("row_index", "indptr", "column_index", "values", "weights")
_CONTENT = "content.txt"
# Copies whose bytes this process has compared with what was written: once is enough.
_verified: set[Path] = set()


def save_copy(name: str, number: int, block: CsrBlock) -> None:
    """Write a block's arrays; others see all of them or none.

    Where the disk is full or will not have them, there is no copy, and a warning says so: the block is then sent
    with every task.

    Parameters
    ----------
    name : str
        Of this set of blocks; unique to one training.
    number : int
        Of the block.
    block : CsrBlock
    """
    try:
        target = _folder(name, number)
        if not target.exists():
            _write(target, block)
    except OSError as error:
        log.warning("training is slower: block %d has no copy on this machine: %s", number, error)


def _write(target: Path, block: CsrBlock) -> None:
    if not target.parent.exists():
        # Only the driver knows when a training is over; workers elsewhere tidy up when the next one begins.
        remove_stale()
    target.parent.mkdir(parents=True, exist_ok=True)
    reject_full_disk(target.parent, block.nbytes)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    try:
        fields = {field: getattr(block, field) for field in _FIELDS if getattr(block, field) is not None}
        for field, array in fields.items():
            np.save(building / f"{field}.npy", array)
        sums = [f"{field} {_checksum(array)}" for field, array in fields.items()]
        (building / _CONTENT).write_text("\n".join(sums), encoding="ascii")
        building.rename(target)
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        # Another attempt at the same task may have been faster; its copy is the same.
        if not target.exists():
            raise


def open_copy(name: str, number: int) -> CsrBlock | None:
    """Return a block as memory-mapped arrays, or None where this machine has no usable copy.

    The first time that a process opens a copy, it reads all of it and compares its check sums.
    """
    try:
        folder = _folder(name, number)
        # What a tidier has taken away must not be mistaken for what never was.
        lines = (folder / _CONTENT).read_text(encoding="ascii").splitlines()
        sums = dict(line.split() for line in lines)
        arrays = {field: np.load(folder / f"{field}.npy", mmap_mode="r") for field in sums}
        if folder not in _verified:
            if any(_checksum(array) != int(sums[field]) for field, array in arrays.items()):
                raise ValueError("other bytes than were written")
            _verified.add(folder)
        # Its age is that of its last use, for those who tidy up.
        os.utime(machine_folder() / name)
    except (OSError, ValueError, EOFError):
        return None
    return CsrBlock(**arrays)


def _checksum(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(array.data)


def remove_copies(name: str) -> None:
    """Remove this machine's copies of one training, and what killed trainings left long ago."""
    shutil.rmtree(machine_folder() / name, ignore_errors=True)
    remove_stale()


def _folder(name: str, number: int) -> Path:
    return machine_folder() / name / f"block-{number}"
