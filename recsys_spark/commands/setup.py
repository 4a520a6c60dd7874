"""The commands for a first day: a configuration from a log, a look at the machine, and completion in the shell."""

from __future__ import annotations

import json
from typing import Literal

import click
from click.shell_completion import get_completion_class
from rich.console import Console

from recsys_spark.commands.doctor import Check, checks_of_machine, checks_of_spark, checks_of_storage
from recsys_spark.commands.end import command_line
from recsys_spark.config.file import load_config
from recsys_spark.errors import RecsysError
from recsys_spark.progress import configure_logging
from recsys_spark.session import build_session
from recsys_spark.starter.write import name_of_log, starter_config, write_new
from recsys_spark.storage import is_local, storage_for

# \b: click leaves the lines of that paragraph as they are.
_COMPLETION_HELP = """Print what lets the Tab key complete commands and options in SHELL.

\b
bash: eval "$(recsys-spark completion bash)" in ~/.bashrc (bash 4.4 or newer)
zsh:  eval "$(recsys-spark completion zsh)" in ~/.zshrc
fish: recsys-spark completion fish > ~/.config/fish/completions/recsys-spark.fish
"""


@click.command()
@click.argument("path", metavar="FILE", type=click.Path())
@click.option("--output", type=click.Path(), metavar="FILE", help="Where to write. Default: the log's name with .yaml.")
def init(path: str, output: str | None) -> None:
    """Write a commented configuration for the log FILE, guessed from a sample of it.

    FILE may be CSV with any delimiter, JSON lines or Parquet, compressed or not, or a folder of such files. Beside each
    guess stands why. Nothing is asked, and no file is overwritten.
    """
    configure_logging("text")
    target = output or f"{name_of_log(path)}.yaml"
    write_new(target, starter_config(path))
    click.echo(f"{target} is written. Read its comments, above all CHECK THIS; then look before you run:")
    click.echo(f"  {command_line('pipeline', config=target, dry_run=True)}")


@click.command()
@click.option("--config", "config_path", metavar="FILE", type=click.Path(), help="Look at the storage of output.path.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Override one setting.")
@click.option("--output", metavar="PATH", help="Look at the storage of this path.")
@click.option("--without-spark", is_flag=True, help="Do not start Spark: quicker, and its workers are not looked at.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(
    config_path: str | None, overrides: tuple[str, ...], output: str | None, without_spark: bool, as_json: bool
) -> None:
    """Look at what runs need: Python, Java, Spark, memory, cores, BLAS threads, storage; say how to mend each.

    Exit code 1 if something has to be mended. In the storage, a small file is written, read and removed.
    """
    configure_logging("text")
    root = output or (load_config(config_path, overrides).output.path if config_path else "runs")
    checks = checks_of_machine()
    session = None
    if not without_spark and all(check.is_well for check in checks):
        found, session = checks_of_spark(lambda: build_session("recsys-doctor"))
        checks += found
    if is_local(root) or session is not None:
        checks += checks_of_storage(root, storage_for(root, session))
    else:
        why = "not looked at: this storage is reached through Spark, which was not started"
        checks.append(Check("storage", None, f"{root}: {why}"))
    is_well = all(check.is_well for check in checks)
    if as_json:
        click.echo(json.dumps({"ok": is_well, "checks": [check.as_dict() for check in checks]}))
    else:
        _print(checks)
    if not is_well:
        names = ", ".join(check.name for check in checks if not check.is_well)
        raise RecsysError(f"not all is well: {names}", remedy="do what stands below each, and run doctor again")


def _print(checks: list[Check]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for check in checks:
        word, style = {True: ("ok", "green"), False: ("mend", "red"), None: ("-", "dim")}[check.ok]
        console.print(f"{word:<5}", style=style, end="", markup=False)
        console.print(f"{check.name:<16}{check.found}", markup=False)
        if check.remedy:
            console.print(f"{'':<21}{check.remedy}", markup=False)


@click.command(help=_COMPLETION_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print what lets the Tab key complete commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    script = kind(root.command, {}, "recsys-spark", "_RECSYS_SPARK_COMPLETE")
    click.echo(script.source_template % script.source_vars())
