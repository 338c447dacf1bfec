"""What deploy/ starts is what there is: command lines parse, variables are settings, files are well formed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import cli
from mesh import setting_tree
from mesh.settings import NATS_ENVIRONMENT, NOT_OURS, variable

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOL_S = 60.0

DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = [
    found
    for path in sorted((DEPLOY / "kubernetes" / "base").glob("*.yaml"))
    for found in yaml.safe_load_all(path.read_text())
]


def pods() -> list[dict[str, Any]]:
    """The pods of every workload."""
    return [one["spec"]["template"]["spec"] for one in MANIFESTS if "template" in one.get("spec", {})]


def command_lines() -> dict[str, list[str]]:
    """Where `bin/agent` is started, and with what."""
    found = {f"compose {name}": _filled(service["command"]) for name, service in COMPOSE["services"].items()}
    found |= {f"pod {pod['containers'][0]['name']}": pod["containers"][0]["args"] for pod in pods()}
    for unit in UNITS:
        (line,) = re.findall(r"^ExecStart=/opt/ramify/bin/agent (.*)$", unit.read_text(), re.MULTILINE)
        found[unit.name] = _filled(line.split())
    found["powershell"] = ["worker", "--join", "TOKEN"]
    return found


def _filled(words: list[str]) -> list[str]:
    return [re.sub(r"^\$\{.*\}$", "mesh.example", word) for word in words]


@pytest.mark.parametrize("where", sorted(command_lines()))
def test_command_lines_parse(where: str) -> None:
    words = command_lines()[where]
    given = cli.parser_of(words[0], cli.load(words[0])).parse_args(words[1:])
    assert given is not None


def test_variables_are_settings() -> None:
    known = {variable(name) for name in setting_tree.known()} | set(NATS_ENVIRONMENT) | set(NOT_OURS)
    named = {
        name
        for path in DEPLOY.rglob("*")
        if path.is_file()
        for name in re.findall(r"\b(?:RAMIFY|NATS)_[A-Z_]+\b", path.read_text())
    }
    assert named - known == {"RAMIFY_LISTEN"}  # the unit's own, for its command line


def test_the_image_has_what_it_copies() -> None:
    for path in re.findall(r"(?:deploy|requirements)/[\w./-]+", DOCKERFILE):
        assert (ROOT / path).is_file(), path


def test_every_volume_is_mounted_from_somewhere() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        there = {volume["name"] for volume in pod["volumes"]} | {"home"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= there
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_kustomize_builds_valid_manifests(overlay: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    folder = DEPLOY / "kubernetes" / overlay
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=TOOL_S)
    assert made.returncode == 0, made.stderr
    built = list(yaml.safe_load_all(made.stdout))
    (pool,) = [one for one in built if one["kind"] == "StatefulSet"]
    limits = pool["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (overlay == "gpu")
    validate = pytest.importorskip("kubernetes_validate")
    for one in built:
        validate.validate(one, "1.37", strict=True)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    here = tmp_path / unit.name  # the program is looked for: this checkout stands for the one in /opt
    here.write_text(unit.read_text().replace("/opt/ramify", str(ROOT)))
    looked = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, timeout=TOOL_S)
    assert (looked.returncode, looked.stderr) == (0, "")


def test_the_image_is_well_while_its_agents_are(tmp_path: Path) -> None:
    ask = [sys.executable, str(DEPLOY / "docker" / "healthcheck.py")]
    environment = {**os.environ, "RAMIFY_HOME": str(tmp_path)}
    assert subprocess.run(ask, env=environment, capture_output=True, timeout=TOOL_S).returncode == 1
    (tmp_path / "run").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # listens, and will be closed: nobody answers there
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    api = {"role": "gateway", "pid": os.getpid(), "api": url}  # as the gateway tells of its API
    (tmp_path / "run" / "gateway-http-1.json").write_text(json.dumps(api))
    agent = {"role": "worker", "pid": os.getpid(), "url": url}
    (tmp_path / "run" / "worker-1.json").write_text(json.dumps(agent))
    looked = subprocess.run(ask, env=environment, capture_output=True, text=True, timeout=TOOL_S)
    assert (looked.returncode, looked.stderr) == (1, "")
    assert looked.stdout.startswith("worker: ")
