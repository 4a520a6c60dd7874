"""The file system of a path or URI as pyarrow sees it: no JVM and no Spark are needed."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.fs as pa_fs

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*):")
# What Hadoop calls the file system of a scheme, and what pyarrow does.
_SCHEMES = {"s3a": "s3", "s3n": "s3"}


def arrow_file_system(uri: str) -> tuple[pa_fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path within it, without a slash at its end.

    Raises
    ------
    ValueError
        If pyarrow knows no such file system.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return pa_fs.LocalFileSystem(), str(Path(uri).absolute())
    name = scheme[1]
    system, path = pa_fs.FileSystem.from_uri(_SCHEMES.get(name, name) + uri[len(name) :])
    return system, path.rstrip("/")
