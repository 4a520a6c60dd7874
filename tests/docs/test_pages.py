"""The pages: links that lead somewhere, and commands that the command line takes."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest

from recsys_spark.cli import cli
from recsys_spark.config.file import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchor(heading: str) -> str:
    """Return the name of a heading in links, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{names(page)}: {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(anchor, headings), f"{names(page)}: {link}"


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"^([a-z_]+)$", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}


def test_the_list_of_tables_is_that_of_the_code() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "list_tables.py"))["tables_page"]()
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == page, "make redraw writes it again"
    assert "| `recommendations.score` | float |" in page


def commands(page: Path) -> list[str]:
    """Return the lines of a page's blocks that start the program."""
    blocks = "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    found = re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?recsys-spark (.*)$", blocks, re.MULTILINE)
    return [line for line in found if not line.startswith("[") and "..." not in line]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_are_ones_that_the_program_takes(page: Path) -> None:
    for line in commands(page):
        name, *arguments = shlex.split(line, comments=True)
        assert name in cli.commands, f"{names(page)}: recsys-spark {line}"
        with click.Context(cli, info_name="recsys-spark") as parent:
            cli.commands[name].make_context(name, arguments, parent=parent)


def test_the_dag_begins_with_a_configuration_that_takes_days() -> None:
    dag = (ROOT / "jobs" / "dags" / "recommendations.py").read_text(encoding="utf-8")
    (default,) = re.findall(r'"RECSYS_CONFIG", "(.+)"', dag)
    assert f"default: `{default}`" in (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
    assert load_config(str(ROOT / default)).input.columns.timestamp is not None


def test_there_are_commands_to_look_at() -> None:
    assert len(commands(ROOT / "README.md")) > 5
