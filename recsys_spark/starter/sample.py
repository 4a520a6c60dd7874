"""The first rows of a log, and what its file looks like: format, encoding, delimiter, header."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.errors import ConfigError
from recsys_spark.ingest.headers import lines_of, split_line
from recsys_spark.starter.column_names import role_of_name
from recsys_spark.storage import FileStatus, LocalStorage, is_local, local_path

_HEAD_BYTES = 1 << 20
_MOST_ROWS = 5000
# A space comes last: it splits times and names too.
_DELIMITERS = ("::", "\t", ";", "|", ",", " ")
_NAMES = {"\t": "tab", " ": "space"}
_SHARE_OF_LIKE_LINES = 0.9


@dataclass(frozen=True, slots=True)
class SampleColumn:
    """A column: its name, or its number where there is no header; its cells as text, None where a row has none.

    ``is_time`` says whether the file itself types it as a time.
    """

    name: str | int
    cells: tuple[str | None, ...]
    is_time: bool = False

    @property
    def filled(self) -> list[str]:
        """The cells that are not blank, without space around them."""
        return [cell.strip() for cell in self.cells if cell is not None and cell.strip()]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the first rows of a log tell.

    Attributes
    ----------
    file : str
        The file that was looked at: the first one that is not empty.
    settings : dict
        Settings of ``input`` that differ from file to file: (value, why) by name.
    columns : tuple of SampleColumn
    n_rows : int
    n_broken : int
        Rows that do not have the columns of the others; they are not among the cells.
    """

    file: str
    settings: dict[str, tuple[object, str]]
    columns: tuple[SampleColumn, ...]
    n_rows: int
    n_broken: int


def read_sample(path: str) -> Sample:
    """Read the first megabyte of a log; without Spark.

    Parameters
    ----------
    path : str
        A local file, folder or glob: CSV with any delimiter, JSON lines or Parquet; ``.gz`` and ``.bz2`` too.

    Raises
    ------
    ConfigError
        If there is nothing to look at, or nothing that can be understood.
    """
    file = _first_file(path)
    with local_path(file.path).open("rb") as stream:
        magic = stream.read(4)
    if magic == b"PAR1":
        return _parquet_sample(file.path)
    if magic[:2] == b"\x1f\x8b" and not file.path.endswith(".gz"):
        raise ConfigError(
            "the file is compressed, and its name does not say so",
            where=file.path,
            remedy="rename it to end with .gz: Spark goes by the name",
        )
    head = LocalStorage().read_head(file.path, _HEAD_BYTES)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError("the file is UTF-16", where=file.path, remedy="convert it to UTF-8")
    text, encoding = _decoded(head.removeprefix(b"\xef\xbb\xbf"))
    lines = lines_of(text)
    if len(head) == _HEAD_BYTES:
        # The last line may be cut off.
        lines = lines[:-1]
    lines = lines[:_MOST_ROWS]
    if not lines:
        raise ConfigError("the file has no lines", where=file.path, remedy="give a file with some rows of the log")
    rows = _json_rows(lines)
    return _csv_sample(file.path, lines, encoding) if rows is None else _json_sample(file.path, rows, len(lines))


def _first_file(path: str) -> FileStatus:
    if not is_local(path):
        raise ConfigError(
            "init looks at files of this machine",
            got=path,
            remedy="copy one file of the log here, look at that, and put the log's own path into the configuration",
        )
    found = [file for file in LocalStorage().find(path) if file.size]
    if not found:
        raise ConfigError(
            "there is no file with content", got=path, remedy="check the spelling and the working directory"
        )
    return found[0]


def _decoded(head: bytes) -> tuple[str, tuple[object, str]]:
    try:
        # Not the end of the text: a character that is cut off there is no fault.
        return codecs.getincrementaldecoder("utf-8")().decode(head), ("utf-8", "")
    except UnicodeDecodeError as error:
        why = f"byte {error.start:,} is no UTF-8; older exports are mostly ISO-8859-1"
        return head.decode("iso-8859-1"), ("iso-8859-1", why)


def _parquet_sample(path: str) -> Sample:
    file = pq.ParquetFile(path)
    batch = next(file.iter_batches(batch_size=_MOST_ROWS), None)
    if batch is None:
        raise ConfigError("the file has no rows", where=path, remedy="give a file with some rows of the log")
    columns = []
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        is_time = pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)
        if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
            continue
        cells = tuple(None if value is None else str(value) for value in values.to_pylist())
        columns.append(SampleColumn(name, cells, is_time))
    settings: dict[str, tuple[object, str]] = {"format": ("parquet", "the file begins with Parquet's mark")}
    return Sample(path, settings, tuple(columns), batch.num_rows, 0)


def _json_rows(lines: Sequence[str]) -> list[dict[str, object]] | None:
    """Return the objects of JSON lines; None where the lines are something else."""
    if not lines[0].lstrip().startswith("{"):
        return None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows if len(rows) > len(lines) / 2 else None


def _json_sample(path: str, rows: Sequence[dict[str, object]], n_lines: int) -> Sample:
    names = list(dict.fromkeys(name for row in rows for name in row))
    nested = {name for name in names if any(isinstance(row.get(name), dict | list) for row in rows)}
    columns = tuple(
        SampleColumn(name, tuple(None if row.get(name) is None else str(row[name]) for row in rows))
        for name in names
        if name not in nested
    )
    why = f"{len(rows):,} of {n_lines:,} lines are JSON objects"
    return Sample(path, {"format": ("jsonl", why)}, columns, n_lines, n_lines - len(rows))


def _csv_sample(path: str, lines: Sequence[str], encoding: tuple[object, str]) -> Sample:
    delimiter, quote = max(
        ((delimiter, quote) for quote in ('"', "") for delimiter in _DELIMITERS),
        key=lambda pair: _likeness(lines, *pair),
    )
    split = [split_line(line, delimiter, quote) for line in lines]
    width, n_like = Counter(map(len, split)).most_common(1)[0]
    if width < 2:
        raise ConfigError(
            "no delimiter was found",
            where=path,
            got=repr(lines[0][:120]),
            allowed=", ".join(_NAMES.get(each, each) for each in _DELIMITERS),
            remedy="give a file with one rating per line, and at least a user and an item in it",
        )
    rows = [row for row in split if len(row) == width]
    header, why_header = _header(rows)
    named = "tab" if delimiter == "\t" else "space" if delimiter == " " else repr(delimiter)
    settings: dict[str, tuple[object, str]] = {
        "delimiter": (delimiter, f"{n_like:,} of {len(lines):,} lines have {width} cells, split at {named}"),
        "header": (header is not None, why_header),
    }
    if not quote:
        settings["quote"] = ("", 'with ", fewer lines have the same number of cells: quotes are ordinary characters')
    if encoding[1]:
        settings["encoding"] = encoding
    body = rows if header is None else rows[1:]
    if not body:
        raise ConfigError(
            "the file has a header and no rows", where=path, remedy="give a file with some rows of the log"
        )
    names: Sequence[str | int] = range(width) if header is None else header
    cells = zip(*body, strict=True)
    columns = tuple(SampleColumn(name, tuple(column)) for name, column in zip(names, cells, strict=True))
    n_rows = len(lines) - (header is not None)
    return Sample(path, settings, columns, n_rows, n_rows - len(body))


def _likeness(lines: Sequence[str], delimiter: str, quote: str) -> tuple[bool, bool, float, int]:
    """Return how well a delimiter splits the lines: alike at all, no mere space, quotes read, share, and cells."""
    widths = Counter(len(split_line(line, delimiter, quote)) for line in lines[:1000])
    width, n_like = widths.most_common(1)[0]
    share = n_like / min(len(lines), 1000)
    is_alike = width > 1 and share >= _SHARE_OF_LIKE_LINES
    return is_alike, delimiter != " " and width > 1, round(share, 2) if width > 1 else 0.0, width


def _header(rows: Sequence[Sequence[str]]) -> tuple[list[str] | None, str]:
    """Return the names in the first row, or None where it is a row as the others are; and why."""
    first = [cell.strip() for cell in rows[0]]
    if any(is_number(cell) for cell in first):
        return None, "the first line holds a number, which no column is called"
    if not all(first) or len(set(first)) < len(first):
        return None, "the first line has empty or equal cells, which cannot be names"
    telling = [name for name in first if role_of_name(name)]
    if telling:
        return list(rows[0]), f"the first line has names such as {telling[0]}"
    rest = rows[1:100]
    below = next((n for n in range(len(first)) if rest and all(is_number(row[n]) for row in rest)), None)
    if below is not None:
        return list(rows[0]), f"the first line has {first[below]!r} where the lines below have numbers"
    return None, "the first line is like the others"


def is_number(text: str) -> bool:
    """Return whether a text is a plain number."""
    try:
        float(text)
    except ValueError:
        return False
    return text.strip().lower().lstrip("+-") not in ("nan", "inf", "infinity") and "_" not in text
