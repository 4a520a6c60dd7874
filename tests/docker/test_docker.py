"""docker/ as far as it can be looked at without Docker: schemas, a linter, and that all it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
import yaml

from recsys_spark.cli import cli
from recsys_spark.config.file import load_config
from tests.conftest import ROOT
from tests.docker.compose_processes import CLUSTER, COMPOSE, SPARK_HOME, services

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
APPLICATION = DOCKER / "k8s" / "recommendations.yaml"
HOME = "/opt/recsys_spark/"
PROGRAMS = Path(sys.executable).parent


def checked(program: str, *arguments: str) -> str:
    """Return what a checker says, or skip the test where it is not installed."""
    if not (PROGRAMS / program).is_file():
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dockerfile_passes_its_linter() -> None:
    assert checked("hadolint", str(DOCKER / "Dockerfile")) == ""


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.compose-spec", COMPOSE), ("vendor.github-workflows", ROOT / ".github" / "workflows" / "ci.yml")],
)
def test_files_fit_their_schemas(schema: str, path: Path) -> None:
    checked("check-jsonschema", "--builtin-schema", schema, str(path))


def test_the_application_fits_the_operators_models() -> None:
    models = pytest.importorskip("kubeflow_spark_api.models", reason="kubeflow-spark-api is not installed")
    content = yaml.safe_load(APPLICATION.read_text(encoding="utf-8"))
    # What the models do not know is lost on the way.
    assert models.SparkV1beta2SparkApplication.from_dict(content).to_dict() == content


def copied(word: str) -> bool:
    """Return whether the Dockerfile copies a path of the checkout, or a folder that it is in."""
    sources = [Path(name) for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    return any(Path(word).is_relative_to(source) for source in sources)


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert f"!{Path(name).parts[0]}" in ignored, f"{name} is not sent to Docker"


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    for name in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert name == "spark" or re.search(r":\d+\.\d+\.\d+-", name), f"{name} is not pinned"
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]:
        assert re.findall(r"^USER (\S+)", stage, re.MULTILINE)[-1] == "10001", "a stage ends as root"
    assert "HEALTHCHECK --interval" in DOCKERFILE
    packages = re.findall(r"^ && apt-get install .*?no-install-recommends (.+?) \\$", DOCKERFILE, re.MULTILINE)
    assert packages
    assert all("=" in package for line in packages for package in line.split())
    for requirements in DOCKER.glob("*requirements.txt"):
        lines = [line for line in requirements.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.\[\]-]+==[\d.]+", line) for line in lines), requirements
        if requirements.name.startswith("airflow"):
            held = (DOCKER / "airflow-constraints.txt").read_text(encoding="utf-8").splitlines()
            assert set(lines) <= set(held)
            assert not any(line.startswith("pyspark=") for line in held)


def test_the_image_has_all_that_the_package_requires() -> None:
    pinned = dict(
        re.findall(r"^([A-Za-z0-9_-]+)\S*==([\d.]+)$", (DOCKER / "requirements.txt").read_text(), re.MULTILINE)
    )
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = project[project.index("\ndependencies = [") : project.index("[project.optional-dependencies]")]
    required = {name.lower() for name in re.findall(r'^  "([A-Za-z0-9_-]+)', listed, re.MULTILINE)}
    assert {name.lower() for name in pinned} == required
    if version("pyspark") == pinned["pyspark"]:
        assert "SPARK_HOME=/usr/local/lib/python3.12/site-packages/pyspark" in DOCKERFILE


def test_the_shell_scripts_can_be_read() -> None:
    for script in DOCKER.glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)


class Page(BaseHTTPRequestHandler):
    """Answers with the status that stands in the path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_a_container_is_healthy_if_its_page_answers() -> None:
    def code(url: str | None) -> int:
        environment = {} if url is None else {"HEALTH_URL": url}
        command = [sys.executable, "-I", "-S", DOCKER / "healthy.py"]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert [code(f"{address}/{status}") for status in (200, 204, 503)] == [0, 1, 1]
        server.shutdown()
    assert code(f"{address}/200") == 1, "nobody answers"
    assert code(None) == 0, "there is nothing to ask"


def test_the_entry_point_starts_what_kubernetes_asks_for(tmp_path: Path) -> None:
    for program in ("java", "spark-submit", "recsys-spark"):
        fake = tmp_path / program
        fake.write_text('#!/bin/sh\necho "$(basename "$0")"\nfor word; do echo "$word"; done\n')
        fake.chmod(0o755)

    def started(*words: str) -> list[str]:
        names = ("DRIVER_URL", "EXECUTOR_ID", "EXECUTOR_CORES", "APPLICATION_ID", "EXECUTOR_POD_IP", "EXECUTOR_MEMORY")
        given = {f"SPARK_{name}": name.lower() for name in (*names, "RESOURCE_PROFILE_ID", "EXECUTOR_POD_NAME")}
        given |= {f"SPARK_JAVA_OPT_{number}": f"-Dn{number}=a b" for number in range(11)}
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SPARK_HOME": "/spark",
            "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.1",
        }
        command = ["sh", DOCKER / "entrypoint.sh", *words]
        done = subprocess.run(command, env=environment | given, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert started("recsys-spark", "a b") == ["recsys-spark", "a b"]
    of_driver = "spark-submit --conf spark.driver.bindAddress=10.0.0.1 --deploy-mode client --class x"
    assert started("driver", "--class", "x") == of_driver.split()
    words = started("executor")
    assert words[:12] == ["java", *(f"-Dn{number}=a b" for number in range(11))]
    backend = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
    assert words[12:17] == ["-Xmsexecutor_memory", "-Xmxexecutor_memory", "-cp", "/spark/jars/*", backend]
    options = dict(zip(words[17::2], words[18::2], strict=True))
    assert options["--driver-url"] == "driver_url"
    assert options["--hostname"] == "executor_pod_ip"


def test_compose_has_the_cluster_and_a_maintained_store() -> None:
    found = services()
    assert {*CLUSTER, "store", "airflow", "submit"} == set(found)
    assert found["airflow"]["profiles"] == ["airflow"]
    for name, service in found.items():
        image = service["image"]
        assert image.startswith("recsys-spark:local") or re.search(r":\d+\.\d+$", image), f"{image} is not pinned"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to other machines"
        for other in service.get("depends_on", {}):
            assert "healthcheck" in found[other] or "HEALTH_URL" in found[other]["environment"], other
    assert "minio" not in COMPOSE.read_text(encoding="utf-8")


def test_what_compose_starts_is_in_the_image() -> None:
    for name in (*CLUSTER, "submit"):
        words = [part for text in services()[name]["command"] for part in shlex.split(text)]
        program = next(word for word in words if word.startswith("spark-"))
        assert (SPARK_HOME / "bin" / program).is_file(), program
        paths = [word for word in words if re.fullmatch(r"(jobs|conf|docker)/\S+", word)]
        assert all((ROOT / path).is_file() and copied(path) for path in paths), paths
    environment = services()["airflow"]["environment"]
    for name in ("RECSYS_CONFIG", "RECSYS_SPARK_PROPERTIES"):
        assert (ROOT / environment[name]).is_file()
        assert copied(environment[name])


def arguments_of(job: str, words: list[str]) -> dict[str, Any]:
    """Return what the command line makes of a job's words; raises where it does not know one."""
    command = cli.commands[job]
    with command.make_context(job, words) as context:
        found: dict[str, Any] = context.params
    return found


def test_the_submitted_commands_can_be_read() -> None:
    application = yaml.safe_load(APPLICATION.read_text(encoding="utf-8"))["spec"]
    main = application["mainApplicationFile"].removeprefix(f"local://{HOME}")
    submitted = services()["submit"]["command"]
    commands = {
        main: application["arguments"],
        "jobs/pipeline.py": submitted[submitted.index("jobs/pipeline.py") + 1 :],
    }
    assert isinstance(cli, click.Group)
    for path, words in (*commands.items(), (main, submitted[submitted.index("--config") :])):
        assert (ROOT / path).is_file()
        assert copied(path)
        found = arguments_of(Path(path).stem, [word.replace("file:///opt/recsys_spark/", f"{ROOT}/") for word in words])
        config = load_config(str(ROOT / found["config_path"].removeprefix(HOME)), found["overrides"])
        assert config.output.path.startswith("file:///data/")
        for file in (config.input.paths[0].replace("{date}", "2010-12-01"), *(f.path for f in config.files.values())):
            assert Path(file).is_file(), file


def test_daemons_are_classes_of_spark() -> None:
    text = COMPOSE.read_text(encoding="utf-8") + (DOCKER / "entrypoint.sh").read_text(encoding="utf-8")
    names = set(re.findall(r"org\.apache\.spark\.[\w.]+", text))
    assert len(names) >= 4
    spec = find_spec("pyspark")
    assert spec is not None
    core = next((SPARK_HOME / "jars").glob("spark-core_*.jar"))
    kubernetes = next((SPARK_HOME / "jars").glob("spark-kubernetes_*.jar"))
    inside = {name for jar in (core, kubernetes) for name in zipfile.ZipFile(jar).namelist()}
    for name in names:
        assert name.replace(".", "/") + ".class" in inside, name
