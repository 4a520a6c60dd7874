"""How far a run is: a bar on a terminal, plain or JSON lines in a log."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from recsys_spark.redaction import redact, redacted

log = logging.getLogger("recsys_spark")


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, run id, message, and the fields given as ``extra={"fields": ...}``."""

    run_id: str | None = None

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if self.run_id is not None:
            line["run_id"] = self.run_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(redacted(line), ensure_ascii=False, default=lambda value: redact(str(value)))


class PlainLines(logging.Formatter):
    """``12:34:56 message``, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        line = f"{datetime.fromtimestamp(record.created, UTC):%H:%M:%S} {prefix}{record.getMessage()}"
        return redact(line + ("\n" + self.formatException(record.exc_info) if record.exc_info else ""))


class _StandardError(logging.StreamHandler[Any]):
    """Writes to whatever ``sys.stderr`` is now, so that a bar that has taken it over stays intact."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


def configure_logging(log_format: Literal["text", "json"]) -> None:
    """Send the package's log to standard error, replacing what an earlier call set up."""
    handler = _StandardError()
    handler.setFormatter(JsonLines() if log_format == "json" else PlainLines())
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def log_run_id(run_id: str) -> None:
    """Put the run's id into every line of a JSON log from here on."""
    for handler in log.handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.run_id = run_id


class Progress:
    """Tells stages, steps and the time that is left.

    Parameters
    ----------
    bar : bool
        Draw a bar instead of one log line per step; for terminals.
    """

    def __init__(self, *, bar: bool = False) -> None:
        self._bar = bar

    @classmethod
    def for_stream(cls, log_format: str) -> Progress:
        """Return a bar where standard error is a terminal and the log is text, else lines."""
        return cls(bar=log_format == "text" and sys.stderr.isatty())

    def say(self, message: str, **fields: Any) -> None:
        """Log one line; the fields appear in JSON logs."""
        log.info(message, extra={"fields": fields})

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Steps]:
        """Follow ``total`` steps of about equal length."""
        if not self._bar:
            yield Steps(title, total, None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True) as bar:
            yield Steps(title, total, bar)


class Steps:
    """The steps of one title: each call of ``done`` is one step."""

    def __init__(self, title: str, total: int, bar: Bar | None) -> None:
        self._title, self._total, self._bar = title, total, bar
        self._count = self._skipped = 0
        self._started = time.monotonic()
        self._task = bar.add_task(title, total=total, note="") if bar else None

    def skip(self, n_steps: int) -> None:
        """Leave out steps that an earlier attempt has done already."""
        self._count += n_steps
        self._skipped += n_steps

    def done(self, message: str, **fields: Any) -> None:
        """Tell that a step is over, with what is worth knowing about it."""
        self._count += 1
        elapsed = time.monotonic() - self._started
        left = elapsed / (self._count - self._skipped) * (self._total - self._count)
        note = f"{message}, about {left:.0f} s left" if self._count < self._total else message
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._count, note=note)
            return
        log.info(
            f"{self._title} {self._count}/{self._total}: {note}",
            extra={"fields": {"step": self._count, "steps": self._total, "eta_seconds": round(left, 1), **fields}},
        )
