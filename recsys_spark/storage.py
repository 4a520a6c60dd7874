"""Files outside Spark's own reads and writes: listing inputs, small JSON files, create-if-absent.

Local paths are handled by the standard library; every other scheme goes through the Hadoop file system
of the session's JVM, so that whatever Spark can read, this can list.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from pyspark.sql import SparkSession

from recsys_spark.errors import ConfigError, ContractError, RecsysError
from recsys_spark.session import is_connect

_HIDDEN = ("_", ".")
# What Hadoop says of storages that have no capacity.
_NO_LIMIT = 1 << 62


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
        If a remote path is given without a session; over Spark Connect, if it is not local and absolute.
    """
    if spark is not None and is_connect(spark):
        return _storage_over_connect(path)
    if is_local(path) and (spark is None or urlsplit(path).scheme == "file" or _default_is_local(spark)):
        return LocalStorage()
    if spark is None:
        raise ConfigError("this path needs a running Spark session", where=path, remedy="use a stage command")
    return HadoopStorage(spark)


def _storage_over_connect(path: str) -> Storage:
    """Return the file system that client and server share; a client has no way to any other."""
    if is_local(path) and local_path(path).is_absolute():
        return LocalStorage()
    raise ConfigError(
        "over Spark Connect, files have to be where both client and server see them",
        where=path,
        allowed="an absolute path on a file system that both share",
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
        raise RecsysError("a file of the run is damaged", where=path, got=str(error)) from None


class LocalStorage:
    """The machine's own file system."""

    def find(self, pattern: str) -> list[FileStatus]:
        """Return the files that a path, folder or glob names."""
        path = local_path(pattern)
        if path.is_file():
            return [_local_status(path)]
        if path.is_dir():
            return [_local_status(file) for file in _visible_files(path)]
        found = sorted(Path(name) for name in glob.glob(str(path)))  # noqa: PTH207 (absolute patterns)
        files: list[Path] = []
        for entry in found:
            files += list(_visible_files(entry)) if entry.is_dir() else [entry]
        return [_local_status(file) for file in files if not file.name.startswith(_HIDDEN)]

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

    def checksum(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes."""
        with local_path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file under another name and move it into place."""
        target = local_path(path)
        temporary = _write_durably(target, text)
        temporary.replace(target)

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole, then link it to its name, which fails where the name is taken."""
        target = local_path(path)
        temporary = _write_durably(target, text)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        path = local_path(folder)
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def exists(self, path: str) -> bool:
        """Return whether a file or folder is there."""
        return local_path(path).exists()

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds."""
        target = local_path(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def free_bytes(self, folder: str) -> int | None:
        """Return how much room there is."""
        return shutil.disk_usage(local_path(folder)).free

    def check_writable(self, folder: str) -> None:
        """Raise ConfigError unless files can be made in the folder."""
        path = local_path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise _not_writable(folder, error.strerror or str(error)) from None


class HadoopStorage:
    """Any file system that the session's JVM knows: HDFS, S3A, GCS, ABFS and the like."""

    def __init__(self, spark: SparkSession) -> None:
        self._jvm: Any = spark._jvm
        self._conf: Any = spark._jsc.hadoopConfiguration()

    def _open(self, path: str) -> tuple[Any, Any]:
        place = self._jvm.org.apache.hadoop.fs.Path(path)
        return place.getFileSystem(self._conf), place

    def find(self, pattern: str) -> list[FileStatus]:
        """Return the files that a path, folder or glob names."""
        system, place = self._open(pattern)
        waiting = list(system.globStatus(place) or [])
        files: list[FileStatus] = []
        while waiting:
            status = waiting.pop()
            if status.isDirectory():
                inside = system.listStatus(status.getPath())
                waiting += [s for s in inside if not s.getPath().getName().startswith(_HIDDEN)]
            elif not status.getPath().getName().startswith(_HIDDEN):
                files.append(
                    FileStatus(status.getPath().toString(), status.getLen(), status.getModificationTime() / 1000)
                )
        return sorted(files, key=lambda file: file.path)

    def read_head(self, path: str, n_bytes: int) -> bytes:
        """Return the first bytes of a file, decompressed by its suffix."""
        system, place = self._open(path)
        stream = system.open(place)
        codec = self._jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(self._conf).getCodec(place)
        if codec is not None:
            stream = codec.createInputStream(stream)
        try:
            bounded = self._jvm.org.apache.commons.io.input.BoundedInputStream(stream, n_bytes)
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(bounded))
        finally:
            stream.close()

    def read_text(self, path: str) -> str:
        """Return a small UTF-8 file."""
        system, place = self._open(path)
        stream = system.open(place)
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream)).decode()
        finally:
            stream.close()

    def checksum(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes; they pass through the driver's JVM."""
        system, place = self._open(path)
        stream = system.open(place)
        try:
            return str(self._jvm.org.apache.commons.codec.digest.DigestUtils.sha256Hex(stream))
        finally:
            stream.close()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file under another name and move it into place."""
        system, place = self._open(path)
        temporary = self._write_temporary(path, text)
        system.delete(place, False)
        if not system.rename(temporary, place):
            raise RecsysError("a file could not be moved into place", where=path, remedy="run the stage again")

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole, then move it to its name, which HDFS refuses where the name is taken.

        Object stores have no such move: there, let one publisher run at a time.
        """
        system, place = self._open(path)
        temporary = self._write_temporary(path, text)
        if not system.exists(place) and system.rename(temporary, place):
            return True
        system.delete(temporary, False)
        return False

    def _write_temporary(self, path: str, text: str) -> Any:
        folder, _, name = path.rpartition("/")
        system, place = self._open(f"{folder}/.{name}-{secrets.token_hex(6)}")
        stream = system.create(place, False)
        try:
            stream.write(text.encode())
        finally:
            stream.close()
        return place

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        system, place = self._open(folder)
        if not system.exists(place):
            return []
        return sorted(status.getPath().getName() for status in system.listStatus(place))

    def exists(self, path: str) -> bool:
        """Return whether a file or folder is there."""
        system, place = self._open(path)
        return bool(system.exists(place))

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds."""
        system, place = self._open(path)
        system.delete(place, True)

    def free_bytes(self, folder: str) -> int | None:
        """Return how much room there is; object stores do not say."""
        system, place = self._open(folder)
        status = system.getStatus(place)
        return int(status.getRemaining()) if 0 < status.getCapacity() < _NO_LIMIT else None

    def check_writable(self, folder: str) -> None:
        """Raise ConfigError unless files can be made in the folder."""
        probe = join(folder, "_writable")
        try:
            self.write_text(probe, "")
            self.remove(probe)
        except Exception as error:
            raise _not_writable(folder, str(error).strip().splitlines()[-1]) from None


def _local_status(path: Path) -> FileStatus:
    status = path.stat()
    # Spark names files by absolute paths without "..", and the counts per file are matched by name.
    return FileStatus(os.path.abspath(path), status.st_size, status.st_mtime)  # noqa: PTH100 (keeps links)


def _visible_files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(_HIDDEN):
            continue
        if entry.is_dir():
            yield from _visible_files(entry)
        elif entry.is_file():
            yield entry


def _write_durably(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o644)  # noqa: PTH101 (mkstemp makes it private; tables are for readers)
    return Path(name)


def _not_writable(folder: str, reason: str) -> ConfigError:
    return ConfigError(
        "the output path cannot be written",
        where=f"output.path: {folder}",
        got=reason,
        remedy="choose another output.path, or mend its permissions",
    )
