"""Files of any file system that pyarrow knows, for where there is no JVM: over Spark Connect."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.fs as pa_fs

from recsys_spark.arrow_file_system import arrow_file_system
from recsys_spark.errors import ConfigError
from recsys_spark.storage.base import HIDDEN, FileStatus, join, not_writable

# Of these, a file is seen when it has been written whole, and to move one is to copy it.
_OBJECT_STORES = ("s3", "gcs", "abfs")
_CHUNK = 1 << 20


class ArrowStorage:
    """A file system that pyarrow knows: S3, GCS, Azure, and HDFS where its C library is installed.

    Credentials and endpoints are the client's own (environment, instance), not those of the Spark server.

    Parameters
    ----------
    uri : str
        Any path of it.

    Raises
    ------
    ConfigError
        If pyarrow knows no such file system, or cannot reach it.
    """

    def __init__(self, uri: str) -> None:
        # Of a path: what it is below, as it stands in URIs, and within the file system.
        self._root = re.sub(r"^([a-z0-9+.-]+://[^/]*)?.*", r"\1", uri)
        try:
            self._system, self._root_inside = arrow_file_system(self._root or "/")
        except (ValueError, OSError, NotImplementedError, ImportError) as error:
            raise ConfigError(
                "without a JVM in this process, files are reached by pyarrow, which cannot reach these",
                where=uri,
                got=str(error).strip().splitlines()[0],
                allowed="s3a://, gs://, abfss://, or an absolute path that client and server share",
                remedy="write the path so, or run the job by spark-submit",
            ) from None
        self._root_inside = self._root_inside.rstrip("/")
        self._is_object_store = self._system.type_name in _OBJECT_STORES

    def _inside(self, path: str) -> str:
        return self._root_inside + path.removeprefix(self._root).rstrip("/")

    def find(self, pattern: str) -> list[FileStatus]:
        """Return the files that a path, folder or glob names; a glob's folder is listed with all it holds."""
        inside = self._inside(pattern)
        (named,) = self._system.get_file_info([inside])
        if named.type == pa_fs.FileType.File:
            return [self._status(named)]
        if named.type == pa_fs.FileType.Directory:
            return self._files(inside)
        fixed = re.split(r"[*?\[]", inside)[0]
        if fixed == inside:
            return []
        files = self._files(fixed.rpartition("/")[0])
        return [file for file in files if _is_named(self._inside(file.path), inside)]

    def _files(self, folder: str) -> list[FileStatus]:
        """Return the files in a folder at any depth, sorted by path, but none that is hidden or in a hidden folder."""
        selector = pa_fs.FileSelector(folder, recursive=True, allow_not_found=True)
        found = [
            self._status(info)
            for info in self._system.get_file_info(selector)
            if info.type == pa_fs.FileType.File
            and not any(part.startswith(HIDDEN) for part in info.path[len(folder) :].split("/"))
        ]
        return sorted(found, key=lambda file: file.path)

    def _status(self, info: pa_fs.FileInfo) -> FileStatus:
        path = self._root + info.path.removeprefix(self._root_inside)
        return FileStatus(path, info.size, (info.mtime_ns or 0) / 1e9)

    def read_head(self, path: str, n_bytes: int) -> bytes:
        """Return the first bytes of a file, decompressed by its suffix."""
        try:
            with self._system.open_input_stream(self._inside(path)) as stream:
                head: bytes = stream.read(n_bytes)
                return head
        except OSError as error:
            raise ConfigError("an input file cannot be read", where=path, got=str(error)) from None

    def read_text(self, path: str) -> str:
        """Return a small UTF-8 file."""
        return self.read_bytes(path).decode()

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file."""
        with self._open(path) as stream:
            content: bytes = stream.read()
            return content

    def _open(self, path: str) -> pa.NativeFile:
        return self._system.open_input_stream(self._inside(path), compression=None)

    def replace_bytes(self, path: str, content: bytes) -> None:
        """Write a file whole: under another name and then moved, where others could see half of it."""
        target = self._inside(path)
        if self._is_object_store:
            self._write(target, content)
            return
        folder, _, name = target.rpartition("/")
        self._system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{name}-{secrets.token_hex(6)}"
        self._write(temporary, content)
        self._system.move(temporary, target)

    def _write(self, inside: str, content: bytes) -> None:
        with self._system.open_output_stream(inside, compression=None) as stream:
            stream.write(content)

    def checksum(self, path: str) -> str:
        """Return the SHA-256 of a file's bytes; they pass through this process."""
        found = hashlib.sha256()
        with self._open(path) as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
        return found.hexdigest()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file whole; replaces what was there."""
        self.replace_bytes(path, text.encode())

    def create_if_absent(self, path: str, text: str) -> bool:
        """Write a small file whole unless the path is taken: a look, and then a write.

        pyarrow has no one step for it: let one publisher run at a time.
        """
        if self.exists(path):
            return False
        self.write_text(path, text)
        return True

    def list_names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        listed = self._system.get_file_info(pa_fs.FileSelector(self._inside(folder), allow_not_found=True))
        return sorted(info.base_name for info in listed)

    def exists(self, path: str) -> bool:
        """Return whether a file or folder is there."""
        (found,) = self._system.get_file_info([self._inside(path)])
        return bool(found.type != pa_fs.FileType.NotFound)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all it holds."""
        inside = self._inside(path)
        (found,) = self._system.get_file_info([inside])
        if found.type == pa_fs.FileType.Directory:
            self._system.delete_dir(inside)
        elif found.type == pa_fs.FileType.File:
            self._system.delete_file(inside)

    def free_bytes(self, folder: str) -> int | None:
        """Return None: pyarrow does not say how much room there is."""
        return None

    def check_writable(self, folder: str) -> None:
        """Raise ConfigError unless files can be made in the folder."""
        probe = join(folder, "_writable")
        try:
            self.write_text(probe, "")
            self.remove(probe)
        except OSError as error:
            raise not_writable(folder, str(error).strip().splitlines()[-1]) from None


def _is_named(path: str, pattern: str) -> bool:
    """Return whether a glob names a file, or a folder that it is in."""
    place = PurePosixPath("/", path)
    return any(entry.match("/" + pattern.lstrip("/")) for entry in (place, *place.parents))
