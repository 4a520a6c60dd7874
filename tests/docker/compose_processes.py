"""The services of docker/compose.yaml as processes of this machine: the same commands, other ports and folders."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import yaml

from recsys_spark.java import find_java
from tests.conftest import ROOT

COMPOSE = ROOT / "docker" / "compose.yaml"
CLUSTER = ("master", "worker-1", "worker-2", "history")
SPARK_HOME = Path(pyspark.__file__).parent
# For JVMs that run for a minute or two.
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the compose file."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


@dataclass(slots=True)
class Cluster:
    """A master, two workers and a history server that run."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]]
    here: Callable[[str], str]

    @property
    def master(self) -> str:
        """The address for ``--master``."""
        return self.here("spark://master:7077")

    def answer(self, url: str) -> Any:
        """Return the JSON of a page of a service."""
        with urllib.request.urlopen(self.here(url), timeout=10) as page:
            return json.load(page)

    def log(self, name: str) -> str:
        """Return what a service has written."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def executors_of(self, name: str) -> list[int]:
        """Return the process ids of the executors that a worker has started."""
        parent = self.processes[name].pid
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and b"CoarseGrainedExecutorBackend" in (entry / "cmdline").read_bytes():
                    status = (entry / "stat").read_text().rpartition(")")[2].split()
                    found += [int(entry.name)] if int(status[1]) == parent else []
            except OSError:
                continue
        return found

    def kill_machine(self, name: str) -> None:
        """Kill -9 a service with all that it has started."""
        os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()


def _translator(folder: Path) -> Callable[[str], str]:
    """Return a function that puts this machine's address, free ports and a folder into texts of the compose file."""
    with_ports = [socket.socket() for _ in range(6)]
    for one in with_ports:
        one.bind(("127.0.0.1", 0))
    free = [str(one.getsockname()[1]) for one in with_ports]
    for one in with_ports:
        one.close()
    ports = dict(zip(("7077", "7078", "7079", "8080", "8081", "8082"), free, strict=True)) | {"18080": _free_port()}

    def here(text: str) -> str:
        text = ports.get(text, text)
        text = re.sub(r"(?<=[:=])(\d{4,5})\b", lambda found: ports.get(found[1], found[1]), text)
        text = re.sub(rf"(?<=//)({'|'.join(CLUSTER)})(?=:)", "127.0.0.1", text)
        return "127.0.0.1" if text in CLUSTER else text.replace("/data", str(folder))

    return here


def _free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start the cluster's services, wait until each is healthy, and end them."""
    cluster = Cluster(folder, {}, _translator(folder))
    try:
        environments = {name: _start(cluster, name) for name in CLUSTER}
        for name, environment in environments.items():
            _wait_until_healthy(cluster, name, environment)
        # A job that is submitted before would have all its executors on one of them.
        n_workers = sum(name.startswith("worker") for name in CLUSTER)
        wait_for(
            lambda: cluster.answer("http://master:8080/json/")["aliveworkers"] == n_workers,
            60,
            lambda: cluster.log("master"),
        )
        yield cluster
    finally:
        for process in cluster.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in cluster.processes.values():
            process.wait(timeout=60)


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent: a test run that is killed leaves no daemons behind."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _start(cluster: Cluster, name: str) -> dict[str, str]:
    """Start a service; return its environment."""
    service = services()[name]
    command = [cluster.here(text) for text in service["command"]]
    given = {key: cluster.here(value) for key, value in service.get("environment", {}).items()}
    environment = {key: value for key, value in os.environ.items() if key != "PYSPARK_SUBMIT_ARGS"}
    environment |= {
        "PATH": f"{SPARK_HOME / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SPARK_HOME": str(SPARK_HOME),
        "JAVA_HOME": str(find_java().home),
        "SPARK_DAEMON_MEMORY": "512m",
        "SPARK_DAEMON_JAVA_OPTS": QUICK_START,
        **given,
    }
    assert shutil.which(command[0], path=environment["PATH"]), command
    with (cluster.folder / f"{name}.log").open("wb") as log:
        cluster.processes[name] = subprocess.Popen(
            command,
            env=environment,
            cwd=cluster.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    return environment


def _wait_until_healthy(cluster: Cluster, name: str, environment: dict[str, str]) -> None:
    """Ask by the image's own check, as Docker would."""
    check = [sys.executable, "-I", "-S", str(ROOT / "docker" / "healthy.py")]
    until = time.monotonic() + 180
    while subprocess.run(check, env=environment, capture_output=True, check=False).returncode != 0:
        assert cluster.processes[name].poll() is None, cluster.log(name)
        assert time.monotonic() < until, f"{name} does not answer\n{cluster.log(name)}"
        time.sleep(0.5)


def wait_for(what: Callable[[], Any], seconds: float, otherwise: Callable[[], str]) -> Any:
    """Return the first answer that is true; fail after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            found = what()
        except (urllib.error.URLError, ConnectionError):
            found = None
        if found:
            return found
        assert time.monotonic() < until, otherwise()
        time.sleep(0.2)
