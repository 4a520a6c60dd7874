"""What the input files look like, read from their first bytes on the driver."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from recsys_spark.config.input import InputConfig
from recsys_spark.errors import ConfigError, NothingToReadError
from recsys_spark.storage import FileStatus, Storage, is_local, storage_for

_HEAD_BYTES = 1 << 20
_LONG_HEAD_BYTES = 1 << 25
_LINES_LOOKED_AT = 1000
_OTHER_DELIMITERS = (",", ";", "\t", "|", "::", " ")


@dataclass(frozen=True, slots=True)
class CsvLayout:
    """The columns of a csv file: how many, and at which position each mapped one stands."""

    header: str | None
    n_columns: int
    positions: dict[str, int]


def list_inputs(config: InputConfig, spark: SparkSession | None = None, where: str = "input.path") -> list[FileStatus]:
    """Return the files of all configured input paths, each once.

    Parameters
    ----------
    config : InputConfig
    spark : SparkSession, optional
        Needed where an input is not on the local file system.
    where : str
        The setting that names the paths.

    Raises
    ------
    ConfigError
        If a path names nothing.
    """
    files: dict[str, FileStatus] = {}
    for path in config.paths:
        found = storage_for(path, spark).find(path)
        if not found:
            raise ConfigError(
                "no input file was found",
                where=where,
                got=path,
                remedy="check the spelling and the working directory; names that start with _ or . are not read",
            )
        files |= {file.path: file for file in found}
    if len({is_local(path) for path in config.paths}) > 1:
        raise ConfigError(
            "inputs must be on one storage",
            where=where,
            got=", ".join(config.paths),
            remedy="copy them to one place, or run one pipeline for each",
        )
    return list(files.values())


def mapped_columns(config: InputConfig) -> dict[str, str | int]:
    """Return role -> column for the roles that the input has."""
    columns = config.columns
    roles = {
        "user": columns.user,
        "item": columns.item,
        "rating": columns.rating,
        "timestamp": columns.timestamp,
        "weight": columns.weight,
    }
    return {role: column for role, column in roles.items() if column is not None}


def csv_layouts(config: InputConfig, storage: Storage, files: Sequence[FileStatus]) -> dict[str, CsvLayout]:
    """Return the layout of every csv file that is not empty, by path.

    Raises
    ------
    ConfigError
        If a mapped column is missing or stands twice, or the text is UTF-16.
    NothingToReadError
        If every file is empty.
    """
    with ThreadPoolExecutor(16) as pool:
        first_lines = dict(pool.map(lambda file: (file.path, _first_line(config, storage, file)), files))
    layouts = {path: _layout(config, path, line) for path, line in first_lines.items() if line is not None}
    if not layouts:
        raise NothingToReadError(
            "there are no ratings: every input file is empty",
            where=", ".join(file.path for file in files[:3]),
            remedy="check the export that should have filled them",
        )
    return layouts


def _first_line(config: InputConfig, storage: Storage, file: FileStatus) -> str | None:
    """Return the header, or without one a line with as many cells as most; None where there is no line."""
    head = storage.read_head(file.path, _HEAD_BYTES) if file.size else b""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(
            "the file is UTF-16", where=file.path, allowed="utf-8 or iso-8859-1", remedy="convert it to UTF-8"
        )
    lines = lines_of(head.removeprefix(b"\xef\xbb\xbf").decode(config.encoding, errors="replace"))
    if config.header or not lines:
        return lines[0] if lines else None
    if len(head) == _HEAD_BYTES and len(lines) == 1:
        lines = lines_of(storage.read_head(file.path, _LONG_HEAD_BYTES).decode(config.encoding, errors="replace"))
    # The last line may be cut off, and the first one may be damaged: neither decides how many columns there are.
    whole = lines[:_LINES_LOOKED_AT] if len(lines) == 1 else lines[:-1][:_LINES_LOOKED_AT]
    widths = [len(split_line(line, config.delimiter, config.quote)) for line in whole]
    return whole[widths.index(Counter(widths).most_common(1)[0][0])]


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that are not empty."""
    # Only the line ends that Spark's reader knows: str.splitlines would also split at form feeds and others.
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line]


def _layout(config: InputConfig, path: str, line: str) -> CsvLayout:
    cells = split_line(line, config.delimiter, config.quote)
    wanted = mapped_columns(config)
    if not config.header:
        for role, column in wanted.items():
            if int(column) >= len(cells):
                raise ConfigError(
                    "a column number is beyond the file's columns",
                    where=f"{path}: input.columns.{role}",
                    got=f"{column}, and the first line has {len(cells)} column(s): {line[:200]!r}",
                    allowed=f"0 to {len(cells) - 1}",
                    remedy=_delimiter_remedy(config, line, len(wanted)),
                )
        return CsvLayout(None, len(cells), {role: int(column) for role, column in wanted.items()})
    for role, column in wanted.items():
        if cells.count(str(column)) != 1:
            raise _column_problem(config, path, role, str(column), cells, line)
    return CsvLayout(line, len(cells), {role: cells.index(str(column)) for role, column in wanted.items()})


def split_line(line: str, delimiter: str, quote: str) -> list[str]:
    """Return the cells of one line."""
    if len(delimiter) > 1:
        return [cell.strip(quote) if quote else cell for cell in line.split(delimiter)]
    quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    csv.field_size_limit(2 * _LONG_HEAD_BYTES)
    return next(csv.reader([line], delimiter=delimiter, quotechar=quote or None, quoting=quoting), [line])


def _column_problem(config: InputConfig, path: str, role: str, column: str, cells: list[str], line: str) -> ConfigError:
    where = f"{path}: input.columns.{role}"
    if column in cells:
        return ConfigError(
            "a mapped column stands twice in the header",
            where=where,
            got=f"{column!r} at positions {[n for n, cell in enumerate(cells) if cell == column]}",
            remedy="rename one of them, or set header: false and give column numbers",
        )
    near = difflib.get_close_matches(column, cells, n=1)
    other = _delimiter_remedy(config, line, len(mapped_columns(config)))
    return ConfigError(
        "the file has no such column",
        where=where,
        got=repr(column),
        allowed=", ".join(repr(cell)[:80] for cell in cells[:50]),
        remedy=other or (f"did you mean {near[0]!r}?" if near else "set input.columns to the file's own names"),
    )


def _delimiter_remedy(config: InputConfig, line: str, n_wanted: int) -> str:
    """Return the delimiter that would split the line into enough columns where the configured one does not."""
    if len(split_line(line, config.delimiter, config.quote)) >= n_wanted:
        return ""
    better = [
        d for d in _OTHER_DELIMITERS if d != config.delimiter and len(split_line(line, d, config.quote)) >= n_wanted
    ]
    if not better:
        return "check input.delimiter and input.columns"
    return f"the delimiter looks like {better[0]!r}: set input.delimiter"


def check_json_fields(config: InputConfig, storage: Storage, files: Sequence[FileStatus]) -> None:
    """Check that the mapped fields occur in the first lines of the first JSON lines file that has any.

    Raises
    ------
    ConfigError
        If a mapped field occurs in none of them.
    NothingToReadError
        If every file is empty.
    """
    for file in files:
        head = storage.read_head(file.path, _HEAD_BYTES).removeprefix(b"\xef\xbb\xbf") if file.size else b""
        fields = _fields_in(head.decode(config.encoding, errors="replace"))
        if fields:
            _check_fields(config, file.path, fields)
            return
    if all(not file.size for file in files):
        raise NothingToReadError(
            "there are no ratings: every input file is empty",
            where=", ".join(file.path for file in files[:3]),
            remedy="check the export that should have filled them",
        )


def _fields_in(head: str) -> set[str]:
    fields: set[str] = set()
    for line in lines_of(head)[:1000]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            fields |= row.keys()
    return fields


def _check_fields(config: InputConfig, path: str, fields: set[str]) -> None:
    for role, field in mapped_columns(config).items():
        if field not in fields:
            near = difflib.get_close_matches(str(field), sorted(fields), n=1)
            raise ConfigError(
                "the file has no such field",
                where=f"{path}: input.columns.{role}",
                got=repr(field),
                allowed=", ".join(repr(name)[:80] for name in sorted(fields)[:50]),
                remedy=f"did you mean {near[0]!r}?" if near else "set input.columns to the file's own names",
            )
