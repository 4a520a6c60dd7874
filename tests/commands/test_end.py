"""The last line of a command that has failed, whatever it failed of."""

from __future__ import annotations

import json
import logging

import click
import pytest

from recsys_spark.commands.end import command_line, going_on_with, tell_end
from recsys_spark.errors import ConfigError, ContractError, NumericalError, RecsysError
from recsys_spark.progress import configure_logging


@pytest.fixture(autouse=True)
def text_log() -> None:
    configure_logging("text")


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (ConfigError("x", remedy="do this"), 2, "do this"),
        (ConfigError("x", got="y"), 2, "mend the configuration or the command line, and give the command again"),
        (ContractError("x"), 3, "mend the data, or the settings that limit them, and give the command again"),
        (NumericalError("x"), 4, "look at what is named above, and start a run with other settings of train"),
        (RecsysError("x"), 1, "mend what is named above, and give the same command again"),
        (KeyboardInterrupt(), 130, "give the same command again"),
        (click.Abort(), 130, "give the same command again"),
        (ZeroDivisionError("x"), 1, "read the trace above; where the cause is gone, give the same command again"),
        (click.UsageError("x"), 2, "recsys-spark --help shows the options, with examples"),
        (
            # As it reaches the driver from a worker.
            RuntimeError(
                "Traceback\n  File y\nrecsys_spark.errors.NumericalError: row 7\n  remedy: rescale\n\n\tat org.apache"
            ),
            4,
            "rescale",
        ),
    ],
)
def test_the_last_line_says_what_to_do(
    error: BaseException, code: int, last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell_end(error) == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"  remedy: {last}"
    assert sum("remedy: " in line for line in said) == 1
    assert any("the trace is above" in line for line in said) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(
    ("kind", "begin"), [(KeyboardInterrupt, ""), (ZeroDivisionError, "read the trace above; where the cause is gone, ")]
)
def test_a_run_that_was_cut_off_names_the_command_that_goes_on(
    kind: type[BaseException], begin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_line(
        "train", config="my conf.yaml", set=("a.b=[1, 2]", "c=d"), run_id="r1", date=None, force=True
    )
    assert command == "recsys-spark train --config 'my conf.yaml' --set 'a.b=[1, 2]' --set c=d --run-id r1 --force"
    with pytest.raises(kind) as caught, going_on_with(command):
        raise kind
    tell_end(caught.value)
    assert capsys.readouterr().err.splitlines()[-1] == f"  remedy: {begin}go on with: {command}"


def test_an_error_while_cleaning_up_does_not_hide_the_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    def clean_up_in_vain() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("the JVM is gone")

    with pytest.raises(RuntimeError) as caught:
        clean_up_in_vain()
    assert tell_end(caught.value) == 130
    assert capsys.readouterr().err.startswith("error: interrupted\n")


def test_secrets_on_the_command_line_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, going_on_with("recsys-spark train --set x=s3a://me:hush@bucket/x"):
        raise KeyboardInterrupt
    tell_end(caught.value)
    assert "hush" not in capsys.readouterr().err


def test_in_a_json_log_the_last_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    assert tell_end(ContractError("x", where="y")) == 3
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["exit_code"], told["level"]) == (3, "error")
    assert told["message"].splitlines()[-1].startswith("  remedy: ")
    logging.getLogger("recsys_spark").handlers.clear()
