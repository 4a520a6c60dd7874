"""Files of any file system that the session's JVM knows."""

from __future__ import annotations

import secrets
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark.errors import RecsysError
from recsys_spark.storage.base import HIDDEN, FileStatus, join, not_writable

# What Hadoop says of storages that have no capacity.
_NO_LIMIT = 1 << 62
# Schemes of file systems that move a file over another in one step.
_MOVE_OVER = ("hdfs", "webhdfs", "swebhdfs")


class HadoopStorage:
    """Any file system that the session's JVM knows: HDFS, S3A, GCS, ABFS and the like."""

    def __init__(self, spark: SparkSession) -> None:
        self._jvm: Any = spark._jvm
        self._conf: Any = spark._jsc.hadoopConfiguration()

    def __repr__(self) -> str:
        """Return the kind of storage."""
        return "HadoopStorage()"

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
                waiting += [s for s in inside if not s.getPath().getName().startswith(HIDDEN)]
            elif not status.getPath().getName().startswith(HIDDEN):
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
        return self.read_bytes(path).decode()

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file; it passes through the driver's JVM."""
        system, place = self._open(path)
        stream = system.open(place)
        try:
            return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(stream))
        finally:
            stream.close()

    def replace_bytes(self, path: str, content: bytes) -> None:
        """Write a file under another name and move it into place: on HDFS over what was there.

        Elsewhere, as on object stores, what was there is deleted first, and the file is away for a moment.
        """
        system, place = self._open(path)
        temporary = self._write_temporary(path, content)
        if system.getUri().getScheme() in _MOVE_OVER:
            kind = self._jvm.java.lang.Class.forName("org.apache.hadoop.fs.Options$Rename")
            options = self._jvm.java.lang.reflect.Array.newInstance(kind, 1)
            options[0] = self._jvm.org.apache.hadoop.fs.Options.Rename.OVERWRITE
            system.rename(temporary, place, options)
            return
        system.delete(place, False)
        if not system.rename(temporary, place):
            raise RecsysError("a file could not be moved into place", where=path, remedy="run the command again")

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
        self.replace_bytes(path, text.encode())

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole, then move it to its name, which HDFS refuses where the name is taken.

        Object stores have no such move: there, let one publisher run at a time.
        """
        system, place = self._open(path)
        temporary = self._write_temporary(path, text.encode())
        if not system.exists(place) and system.rename(temporary, place):
            return True
        system.delete(temporary, False)
        return False

    def _write_temporary(self, path: str, content: bytes) -> Any:
        folder, _, name = path.rpartition("/")
        system, place = self._open(f"{folder}/.{name}-{secrets.token_hex(6)}")
        stream = system.create(place, False)
        try:
            stream.write(bytearray(content))
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
            raise not_writable(folder, str(error).strip().splitlines()[-1]) from None
