"""How a command ends: its exit code, a last line that says what to do, and what Ctrl-C leaves."""

from __future__ import annotations

import logging
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click
from pyspark.sql import SparkSession

from recsys_spark.errors import (
    RecsysError,
    comes_from,
    error_from_full_disk,
    error_from_lack_of_memory,
    error_from_reader,
    error_from_worker,
    with_causes,
)
from recsys_spark.progress import JsonLines, configure_logging
from recsys_spark.redaction import redact

log = logging.getLogger(__name__)

EXIT_CODES = (
    "Exit codes: 0 ok, 2 configuration, 3 data contract or gate, 4 numerical, 130 interrupted, 1 anything else."
)
INTERRUPTED = 130
_PROGRAM = "recsys-spark"
_REMEDY = "  remedy: "
_REMEDIES = {
    2: "mend the configuration or the command line, and give the command again",
    3: "mend the data, or the settings that limit them, and give the command again",
    4: "look at what is named above, and start a run with other settings of train",
}
_GO_ON = "go on with: "
_AGAIN = "give the same command again"


def command_line(name: str, **options: object) -> str:
    """Return a command of this program as it can be pasted into a shell; options of None, False or () are left out."""
    words = [_PROGRAM, name]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not None and value is not False:
            for each in value if isinstance(value, tuple | list) else [value]:
                words += [flag, str(each)]
    return shlex.join(words)


@contextmanager
def going_on_with(command: str) -> Iterator[None]:
    """Let what ends the block tell which command goes on where it was cut off."""
    try:
        yield
    except BaseException as error:
        error.add_note(_GO_ON + command)
        raise


def take_sigterm_for_ctrl_c() -> None:
    """Let SIGTERM, as schedulers send it, end the program as Ctrl-C does: leases are given up, and runs can go on."""
    signal.signal(signal.SIGTERM, _raise_sigint)


def _raise_sigint(number: int, frame: FrameType | None) -> None:
    # Not KeyboardInterrupt: Spark's own handler of SIGINT cancels the jobs that are running, and raises it then.
    signal.raise_signal(signal.SIGINT)


def was_interrupted(error: BaseException) -> bool:
    """Return whether a person or a scheduler has ended the command, even if cleaning up failed of it afterwards."""
    return comes_from(error, (KeyboardInterrupt, click.Abort))


def stop_spark() -> None:
    """Stop the session, so that nothing of the jobs that were cut off is printed after the last line."""
    # Of this process: what is active may have been forgotten with the call that was cut off. There may be none.
    with suppress(Exception):
        SparkSession.active().stop()


def tell_end(error: BaseException) -> int:
    """Print what ended a command, what to do in the last line, and return the exit code.

    Parameters
    ----------
    error : BaseException
        What the command raised. Only of defects, a trace is printed.

    Returns
    -------
    int
        As in ``EXIT_CODES``.
    """
    notes = [note for each in with_causes(error) for note in getattr(each, "__notes__", [])]
    # What is done already is not done again where the command has begun a run.
    then = next((note for note in reversed(notes) if note.startswith(_GO_ON)), _AGAIN)
    if isinstance(error, click.ClickException):
        error.show()
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else _PROGRAM
        click.echo(f"{_REMEDY}{path} --help shows the options, with examples", err=True)
        return 2
    if was_interrupted(error):
        return _print("interrupted", then, INTERRUPTED)
    known = _known(error, then)
    if known is not None:
        remedy = _REMEDIES.get(known.exit_code, f"mend what is named above, and {then}")
        return _print(str(known), remedy, known.exit_code)
    if not logging.getLogger("recsys_spark").handlers:
        # It failed before it set up its log.
        configure_logging("text")
    log.error("unexpected error", exc_info=error)
    first = str(error).strip().splitlines()
    remedy = f"read the trace above; where the cause is gone, {then}"
    return _print(f"{type(error).__name__}: {first[0] if first else ''} (the trace is above)", remedy, 1)


def _known(error: BaseException, then: str) -> RecsysError | None:
    """Return the error that a user can act on, where it is one: of the driver, of a worker, of a file or a machine."""
    if isinstance(error, RecsysError):
        return error
    text = f"{type(error).__name__}: {error}"
    found = error_from_worker(text) or error_from_reader(text)
    return found or error_from_full_disk(text, then) or error_from_lack_of_memory(text, then)


def _print(message: str, remedy: str, code: int) -> int:
    """Print a message that ends with its own remedy, or else with the one for its kind."""
    if not message.rpartition("\n")[2].startswith(_REMEDY):
        message = f"{message}\n{_REMEDY}{remedy}"
    if any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger("recsys_spark").handlers):
        log.error(message, extra={"fields": {"exit_code": code}})
    else:
        click.echo(redact(f"error: {message}"), err=True)
    return code
