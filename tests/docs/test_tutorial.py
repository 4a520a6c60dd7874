"""The tutorial, command by command as it stands on the page, and what the page says comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, python_path

PAGE = ROOT / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, list[str]]]:
    """Return the commands of each block, and the lines that the page shows of their output."""
    found: list[tuple[str, list[str]]] = []
    for kind, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "sh":
            found.append((text, []))
        else:
            found[-1][1].extend(line for line in text.splitlines() if line.strip(" ."))
    return [(commands, lines) for commands, lines in found if "pip install" not in commands]


def without_numbers(line: str) -> str:
    """Return a line in which numbers, times and spaces are alike: they differ from machine to machine."""
    return re.sub(r"\s+", " ", re.sub(r"[\d][\d.,:+\-T]*", "#", line)).strip()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    for folder in ("examples", "conf"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path(), "COLUMNS": "120", "NO_COLOR": "1"}
    assert len(steps()) > 5
    for commands, lines in steps():
        done = subprocess.run(
            ["bash", "-e", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stderr}"
        printed = {without_numbers(line) for line in (done.stdout + done.stderr).splitlines()}
        for line in lines:
            assert without_numbers(line) in printed, f"{commands}\n{done.stdout}"
