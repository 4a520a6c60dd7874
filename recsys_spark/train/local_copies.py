"""Blocks as memory-mapped files on the machine of the worker that assembled them.

Ratings do not change while a model is trained, so that a task needs only its block's number when the
machine it runs on still has the file; only factors then cross from the JVM to Python and back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from recsys_spark.kernels.csr_block import CsrBlock

_FIELDS = ("row_index", "indptr", "column_index", "values", "weights")
_CONTENT = "content.txt"
# What a killed job left behind is removed by the next one that finds it this old.
_STALE_SECONDS = 24 * 3600.0


def copies_root() -> Path:
    """Return this machine's folder of copies, private to the user."""
    root = Path(tempfile.gettempdir()) / f"recsys_spark-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to another user; set TMPDIR to a folder of your own")
    return root


def save_copy(name: str, number: int, block: CsrBlock) -> None:
    """Write a block's arrays; others see all of them or none.

    Parameters
    ----------
    name : str
        Of this set of blocks; unique to one training.
    number : int
        Of the block.
    block : CsrBlock
    """
    target = _folder(name, number)
    if target.exists():
        return
    if not target.parent.exists():
        # Only the driver knows when a training is over; workers elsewhere tidy up when the next one begins.
        _remove_stale()
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=target.parent))
    fields = [field for field in _FIELDS if getattr(block, field) is not None]
    for field in fields:
        np.save(building / f"{field}.npy", getattr(block, field))
    (building / _CONTENT).write_text(" ".join(fields), encoding="ascii")
    try:
        building.rename(target)
    except OSError:
        # Another attempt at the same task was faster; its copy is the same.
        shutil.rmtree(building, ignore_errors=True)


def open_copy(name: str, number: int) -> CsrBlock | None:
    """Return a block as memory-mapped arrays, or None where this machine has no usable copy."""
    folder = _folder(name, number)
    try:
        # What a tidier has taken away must not be mistaken for what never was.
        fields = (folder / _CONTENT).read_text(encoding="ascii").split()
        arrays = {field: np.load(folder / f"{field}.npy", mmap_mode="r") for field in fields}
        # Its age is that of its last use, for those who tidy up.
        os.utime(copies_root() / name)
    except (OSError, ValueError, EOFError):
        return None
    return CsrBlock(**arrays)


def remove_copies(name: str) -> None:
    """Remove this machine's copies of one training, and what killed trainings left long ago."""
    shutil.rmtree(copies_root() / name, ignore_errors=True)
    _remove_stale()


def _remove_stale() -> None:
    for folder in copies_root().iterdir():
        try:
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _folder(name: str, number: int) -> Path:
    return copies_root() / name / f"block-{number}"
