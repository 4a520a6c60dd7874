"""Help with examples that are true, and completion in the shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from recsys_spark.cli import cli, main
from recsys_spark.commands.examples import EXAMPLES
from tests.conftest import python_path

NAMES = sorted(cli.commands)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_examples_that_its_options_allow(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    for example in EXAMPLES[name]:
        assert f"  recsys-spark {example}\n" in printed, "on a line of its own"
        command, *arguments = shlex.split(example)
        assert command == name
        with click.Context(cli, info_name="recsys-spark") as parent:
            cli.commands[name].make_context(name, arguments, parent=parent)


def test_there_are_no_examples_of_commands_that_are_gone() -> None:
    assert sorted(EXAMPLES) == NAMES


def completed(words: list[str], begun: str) -> set[str]:
    complete = ShellComplete(cli, {}, "recsys-spark", "_RECSYS_SPARK_COMPLETE")
    return {item.value for item in complete.get_completions(words, begun)}


def test_commands_options_and_values_are_completed() -> None:
    assert completed([], "ro") == {"rollback"}
    assert {"--config", "--date"} <= completed(["pipeline"], "--")
    assert completed(["pipeline", "--log-format"], "j") == {"json"}
    complete = ShellComplete(cli, {}, "recsys-spark", "_RECSYS_SPARK_COMPLETE")
    for command in ("pipeline", "runs", "report", "tune", "chaos", "doctor"):
        (item,) = complete.get_completions([command, "--config"], "conf/")
        assert item.type == "file", f"{command}: the shell completes names of files"


# What each shell does when Tab is pressed after `recsys-spark ro`; zsh's own completion is stood in for.
PRESSED = {
    "bash": """
        source "$1"
        COMP_WORDS=(recsys-spark ro) COMP_CWORD=1
        _recsys_spark_completion recsys-spark
        echo "${COMPREPLY[@]}"
        complete -p recsys-spark >&2
    """,
    "zsh": """
        compdef() { registered=$2 }
        _describe() { print -l -- ${(P)3} }
        compadd() { print -l -- ${(P)@[-1]} }
        source $1
        words=(recsys-spark ro) CURRENT=2
        _recsys_spark_completion
        [[ $registered == recsys-spark ]]
    """,
    "fish": """
        source $argv[1]
        complete --do-complete "recsys-spark ro"
    """,
}


@pytest.mark.parametrize("shell", list(PRESSED))
def test_a_shell_completes_what_was_begun(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_RECSYS_SPARK_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    (tmp_path / "script").write_text(script)
    (tmp_path / "recsys-spark").write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "from recsys_spark.cli import entry_point; entry_point()"\n'
    )
    (tmp_path / "recsys-spark").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": python_path(),
        "HOME": str(tmp_path),
    }
    # As `$1`: fish has no name for the program itself among its arguments.
    arguments = [str(tmp_path / "script")] if shell == "fish" else [shell, str(tmp_path / "script")]
    done = subprocess.run(
        [program, "-c", PRESSED[shell], *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # zsh and fish show what a command is for, too.
    assert re.split(r"[:\t\s]", done.stdout)[0] == "rollback", done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
