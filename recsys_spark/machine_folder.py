"""A folder on every machine, of files that processes of one user pass to each other, and that nobody has to keep."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

# Files only make things faster: the rest of the disk belongs to others.
_SHARE_LEFT_FREE = 0.05
# What a killed job left behind is removed by the next one that finds it this old.
_STALE_SECONDS = 24 * 3600.0


def machine_folder() -> Path:
    """Return the folder, private to the user."""
    root = Path(tempfile.gettempdir()) / f"recsys_spark-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid():
        raise PermissionError(f"{root} belongs to another user; set TMPDIR to a folder of your own")
    return root


def reject_full_disk(folder: Path, n_bytes: int) -> None:
    """Raise OSError if so many bytes more would leave too little of the disk to others."""
    disk = shutil.disk_usage(folder)
    if disk.free - n_bytes < disk.total * _SHARE_LEFT_FREE:
        raise OSError(f"{folder} has {disk.free:,} of {disk.total:,} bytes left; TMPDIR names another place")


def remove_stale() -> None:
    """Remove what killed jobs left long ago."""
    for place in machine_folder().iterdir():
        try:
            if time.time() - place.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(place, ignore_errors=True)
        except OSError:
            continue
