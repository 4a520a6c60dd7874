"""Files outside Spark's own reads and writes: listing inputs, small JSON files, create-if-absent.

Local paths are handled by the standard library; every other scheme goes through the Hadoop file system
of the session's JVM, so that whatever Spark can read, this can list; over Spark Connect, where there is
none, through pyarrow.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from pyspark.sql import SparkSession

from recsys_spark.errors import ConfigError, ContractError, DamagedFileError
from recsys_spark.session import is_connect

HIDDEN = ("_", ".")


@dataclass(frozen=True, slots=True)
class FileStatus:
    """One file: its path or URI, its size in bytes, its modification time in seconds since 1970."""

    path: str
    size: int
    modified: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for a manifest."""
        return asdict(self)


class Storage(Protocol):
    """What the pipeline asks of a file system; paths are the strings the user gave."""

    def find(self, pattern: str) -> list[FileStatus]:
        """Return the files that a path, folder (at any depth) or glob names, sorted by path; hidden ones left out."""

    def read_head(self, path: str, n_bytes: int) -> bytes:
        """Return the first bytes of a file, decompressed by its suffix."""

    def read_text(self, path: str) -> str:
        """Return a small UTF-8 file."""

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file."""

    def replace_bytes(self, path: str, content: bytes) -> None:
        """Write a file so that readers see all of it or what was there before."""

    def checksum(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes, in hexadecimal."""

    def write_text(self, path: str, text: str) -> None:
        """Write a small file so that readers see all of it or none; replaces what was there."""

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole; return False, changing nothing, where the path is taken."""

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; an absent folder has none."""

    def exists(self, path: str) -> bool:
        """Return whether a file or folder is there."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds; absent is fine."""

    def free_bytes(self, folder: str) -> int | None:
        """Return how much room there is, None where the storage does not say."""

    def check_writable(self, folder: str) -> None:
        """Raise ConfigError unless files can be made in the folder; makes the folder."""


def storage_for(path: str, spark: SparkSession | None = None) -> Storage:
    """Return the storage that a path lives on: the one on which Spark would look for it.

    Parameters
    ----------
    path : str
        A local path or a URI.
    spark : SparkSession, optional
        Needed for every scheme but ``file``.

    Raises
    ------
    ConfigError
        If a remote path is given without a session; over Spark Connect, if it is relative, or pyarrow cannot reach it.
    """
    if spark is not None and is_connect(spark):
        return _storage_over_connect(path)
    if is_local(path) and (spark is None or urlsplit(path).scheme == "file" or _default_is_local(spark)):
        return LocalStorage()
    if spark is None:
        raise ConfigError("this path needs a running Spark session", where=path, remedy="use a stage command")
    # It needs what this module defines.
    from recsys_spark.storage.hadoop import HadoopStorage

    return HadoopStorage(spark)


def _storage_over_connect(path: str) -> Storage:
    """Return the file system that client and server share, or what pyarrow reaches: there is no JVM to ask."""
    if not is_local(path):
        from recsys_spark.storage.arrow import ArrowStorage

        return ArrowStorage(path)
    if local_path(path).is_absolute():
        return LocalStorage()
    raise ConfigError(
        "over Spark Connect, files have to be where both client and server see them",
        where=path,
        allowed="an absolute path on a file system that both share, or a URI of an object store",
        remedy="write the path so, or run the job by spark-submit",
    )


def _default_is_local(spark: SparkSession) -> bool:
    """Return whether Spark takes a path without a scheme for a local one; on many clusters it is HDFS."""
    default: str = spark._jsc.hadoopConfiguration().get("fs.defaultFS", "file:///")
    return default.startswith("file:")


def is_local(path: str) -> bool:
    """Return whether a path is on this machine's file system."""
    return urlsplit(path).scheme in ("", "file")


def local_path(path: str) -> Path:
    """Return a local path or ``file:`` URI as a Path."""
    if path.startswith("file:"):
        return Path(unquote(urlsplit(path).path))
    return Path(path)


def join(folder: str, *parts: str) -> str:
    """Return the path of something inside a folder, on any storage."""
    return "/".join([folder.rstrip("/") or "/", *parts])


def literal_path(path: str) -> str:
    """Return a path for Spark's readers, which take ``[]{}*?`` in a path for a pattern."""
    return "".join("\\" + character if character in "[]{}*?\\" else character for character in path)


def read_json(storage: Storage, path: str) -> Any:
    """Return the content of a JSON file."""
    try:
        return json.loads(storage.read_text(path))
    except ValueError as error:  # of JSON, or of UTF-8
        raise DamagedFileError("a file of the run is damaged", where=path, got=str(error)) from None


class LocalStorage:
    """The machine's own file system."""

    def __repr__(self) -> str:
        """Return the kind of storage."""
        return "LocalStorage()"

    def find(self, pattern: str) -> list[FileStatus]:
        """Return the files that a path, folder or glob names."""
        path = local_path(pattern)
        if path.is_file():
            return _statuses([path])
        if path.is_dir():
            return _statuses(_visible_files(path))
        found = sorted(Path(name) for name in glob.glob(str(path)))  # noqa: PTH207 (absolute patterns)
        files: list[Path] = []
        for entry in found:
            files += list(_visible_files(entry)) if entry.is_dir() else [entry]
        return _statuses(file for file in files if not file.name.startswith(HIDDEN))

    def read_head(self, path: str, n_bytes: int) -> bytes:
        """Return the first bytes of a file, decompressed by its suffix."""
        name = local_path(path)
        openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
        try:
            with openers.get(name.suffix, open)(name, "rb") as file:
                head: bytes = file.read(n_bytes)
                return head
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ContractError("an input file is cut off or damaged", where=path, got=str(error)) from None
        except OSError as error:
            raise ConfigError("an input file cannot be read", where=path, got=str(error)) from None

    def read_text(self, path: str) -> str:
        """Return a small UTF-8 file."""
        return local_path(path).read_text(encoding="utf-8")

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file."""
        return local_path(path).read_bytes()

    def replace_bytes(self, path: str, content: bytes) -> None:
        """Write a file under another name and move it into place."""
        target = local_path(path)
        written = _write_durably(target, content)
        # Hadoop keeps checksums of what Spark has written beside it, and would refuse the new content by them.
        (target.parent / f".{target.name}.crc").unlink(missing_ok=True)
        written.replace(target)

    def checksum(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes."""
        with local_path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file under another name and move it into place."""
        self.replace_bytes(path, text.encode())

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole, then link it to its name, which fails where the name is taken."""
        target = local_path(path)
        temporary = _write_durably(target, text.encode())
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        try:
            return sorted(entry.name for entry in local_path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, path: str) -> bool:
        """Return whether a file or folder is there."""
        return local_path(path).exists()

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds."""
        target = local_path(path)
        while target.is_dir() and not target.is_symlink():
            # Another process may be removing it too, and be ahead.
            with suppress(FileNotFoundError):
                shutil.rmtree(target)
        target.unlink(missing_ok=True)

    def free_bytes(self, folder: str) -> int | None:
        """Return how much room there is, where the folder is or will be."""
        path = local_path(folder).absolute()
        return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free

    def check_writable(self, folder: str) -> None:
        """Raise ConfigError unless files can be made in the folder."""
        path = local_path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise not_writable(folder, error.strerror or str(error)) from None


def _statuses(paths: Iterable[Path]) -> list[FileStatus]:
    """Return what is known of files; those that another process has removed since they were listed are left out."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            # Spark names files by absolute paths without "..", and the counts per file are matched by name.
            place = os.path.abspath(path)  # noqa: PTH100 (keeps links)
            found.append(FileStatus(place, status.st_size, status.st_mtime))
    return found


def _visible_files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(HIDDEN):
            continue
        if entry.is_dir():
            yield from _visible_files(entry)
        elif entry.is_file():
            yield entry


def _write_durably(target: Path, content: bytes) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # On a full disk, what was half written would take the room of what comes next.
        Path(name).unlink()
        raise
    os.chmod(name, 0o644)  # noqa: PTH101 (mkstemp makes it private; tables are for readers)
    return Path(name)


def not_writable(folder: str, reason: str) -> ConfigError:
    """Return the error for an output path in which no file can be made."""
    return ConfigError(
        "the output path cannot be written",
        where=f"output.path: {folder}",
        got=reason,
        remedy="choose another output.path, or mend its permissions",
    )
