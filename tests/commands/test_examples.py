"""Help with examples that are true, and completion in the shell."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from recsys_spark.cli import cli, main
from recsys_spark.commands.examples import EXAMPLES

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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one_that_it_understands(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_RECSYS_SPARK_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not on this machine")
    (tmp_path / "script").write_text(script)
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True)
