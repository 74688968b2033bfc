"""The files of ``example/deploy``: the programs that they are for accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from example import health
from flask_safesession.web.interface import EXEMPT

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "example" / "deploy"


def text_of(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if not shutil.which(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not on this machine: {', '.join(missing)}")


def run(*command: str | Path) -> str:
    """What the program said, which found no fault."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# -- files for containers -----------------------------------------------------------------------

COMPOSE: Any = yaml.safe_load(text_of("compose.yaml"))
OBJECTS: list[Any] = list(yaml.safe_load_all(text_of("kubernetes.yaml")))


def test_the_compose_file_follows_the_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    run(checker, "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")


def test_what_the_compose_file_mounts_is_there() -> None:
    mounts = [m for service in COMPOSE["services"].values() for m in service.get("volumes", ())]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) == 5
    assert all((FOLDER / name).is_file() for name in files)
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    build = COMPOSE["services"]["app"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


def test_the_example_of_an_environment_has_each_variable_of_the_compose_file() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", text_of("compose.yaml")))
    given = re.findall(r"^#?([A-Z_]+)=", text_of("env.example"), re.MULTILINE)
    assert wanted == set(given) - {"COMPOSE_PROFILES"}
    profiles = re.findall(r"COMPOSE_PROFILES=(\w+)", text_of("env.example"))
    assert {name: COMPOSE["services"][name]["profiles"] for name in profiles} == {
        "redis": ["redis"],
        "postgresql": ["postgresql"],
    }


def test_grafana_finds_prometheus_and_the_dashboard_where_compose_puts_them() -> None:
    mounts = [mount.split(":") for mount in COMPOSE["services"]["grafana"]["volumes"]]
    targets = {Path(target) for _, target, _ in mounts}
    [provider] = yaml.safe_load(text_of("grafana-dashboards.yml"))["providers"]
    assert Path(provider["options"]["path"], "safesession.json") in targets
    [source] = yaml.safe_load(text_of("grafana-datasource.yml"))["datasources"]
    assert source["url"].startswith("http://prometheus:")
    assert "prometheus" in COMPOSE["services"]
    [scrape] = yaml.safe_load(text_of("prometheus.yml"))["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": ["app:8000"]}]


@needs("promtool")
def test_prometheus_accepts_its_file(tmp_path: Path) -> None:
    alerts = FOLDER.parent / "grafana" / "alerts.yml"
    copy = tmp_path / "prometheus.yml"
    copy.write_text(text_of("prometheus.yml").replace("/etc/prometheus/alerts.yml", str(alerts)))
    run("promtool", "check", "config", copy)


def test_the_image_is_built_of_files_that_are_there() -> None:
    lines = re.sub(r"\\\n\s*", "", text_of("Dockerfile")).splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert {"flask_safesession", "example", "pyproject.toml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    [extras] = re.findall(r"^RUN pip install '\.\[(.+?)\]'", "\n".join(lines), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert {project["readme"], *project["license-files"]} <= set(copied)
    assert "'gunicorn[gevent]'" in text_of("Dockerfile")  # its worker needs more than gevent
    [command] = [json.loads(line[4:]) for line in lines if line.startswith("CMD")]
    assert (ROOT / command[command.index("--config") + 1]).is_file()


@pytest.mark.parametrize("manifest", OBJECTS, ids=[each["kind"] for each in OBJECTS])
def test_kubernetes_accepts_each_object(manifest: Any) -> None:
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, newest, strict=True)


def test_all_probes_ask_a_view_that_makes_no_store_call() -> None:
    assert getattr(health, EXEMPT)
    [pod] = [each["spec"]["template"]["spec"] for each in OBJECTS if each["kind"] == "Deployment"]
    [container] = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": "http"}


# -- files for a machine ------------------------------------------------------------------------


@needs("systemd-analyze")
def test_systemd_accepts_its_units(tmp_path: Path) -> None:
    units = [*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")]
    assert len(units) == 3
    for unit in units:
        copy = re.sub(r"(?<=^ExecStart=)\S+", sys.executable, unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(copy)
    # It warns of a key that it does not know, and exits with 0.
    assert run("systemd-analyze", "verify", *(tmp_path / unit.name for unit in units)) == ""
