"""Rules for files of Ray's cluster launcher (`ray up FILE`): its own schema, then what this project needs."""

from __future__ import annotations

import json
import logging
import shlex
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from jsonschema import Draft7Validator

from cluster.launch.clouds import node_config_findings
from cluster.launch.documents import Document, Finding, schema_findings
from cluster.launch.host_role import role_findings
from cluster.launch.rules import (
    first,
    group_findings,
    idle_findings,
    image_findings,
    literal_token_findings,
    range_findings,
    world_findings,
)
from configs.command_line import nearest
from configs.paths import PROJECT_ROOT

LONGEST_IDLE_MINUTES = 120
TOKEN_FILE = ".ray/auth_token"
CONSTRAINTS = "cluster/launch/constraints.txt"
LOOPBACK = ("127.0.0.1", "localhost")


def findings(config: Document) -> list[Finding]:
    """Everything wrong with a cluster-launcher file."""
    by_schema = list(schema_findings(Draft7Validator(_schema()), config))
    if by_schema:  # what follows relies on the shapes
        return by_schema
    return first([*_by_ray(config), *_by_project(config)] or list(_refused_by_ray(config)))


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("ray.autoscaler").joinpath("ray-schema.json").read_text())
    return schema


def _by_ray(config: Document) -> Iterator[Finding]:
    """Mistakes in the names and numbers of node types, in words of one line."""
    if config["provider"]["type"] == "local":
        yield from role_findings(config)
        return
    types = config.get("available_node_types") or {}
    head = config.get("head_node_type")
    if head not in types:
        yield Finding("head_node_type", f"got {head!r}{nearest(str(head), types)}; allowed {', '.join(types)}")
    workers = {name: node for name, node in types.items() if name != head}
    if head in types:
        yield from group_findings(
            "available_node_types", {name: node["resources"] for name, node in workers.items()}, "resources"
        )
        if types[head]["resources"].get("CPU") != 0:
            yield Finding(
                f"available_node_types.{head}.resources", "got CPUs on the head, allowed CPU 0: no role goes there"
            )
    for name, node in workers.items():
        field = f"available_node_types.{name}"
        yield from range_findings(
            field, node.get("min_workers", 0), node.get("max_workers"), ("min_workers", "max_workers")
        )
        if not node["resources"].get("CPU"):
            yield Finding(f"{field}.resources.CPU", "got nothing, allowed the CPUs of a node: actors ask for them")
        if "learner" in node["resources"] and not node.get("min_workers"):
            yield Finding(f"{field}.min_workers", "got 0, allowed 1: the driver of a run starts there")
    least = sum(node.get("min_workers", 0) for node in workers.values())
    if config.get("max_workers", 0) < least:
        yield Finding(
            "max_workers", f"got {config.get('max_workers', 0)}, allowed at least {least}, the sum of min_workers"
        )


def _by_project(config: Document) -> Iterator[Finding]:
    yield from world_findings(config)
    yield from literal_token_findings(config)
    yield from idle_findings(
        "idle_timeout_minutes", config.get("idle_timeout_minutes"), LONGEST_IDLE_MINUTES, "minutes"
    )
    yield from _container(config.get("docker") or {})
    yield from _mounts(config.get("file_mounts") or {})
    yield from _commands(config)
    head = config.get("head_node_type")
    for name, node in (config.get("available_node_types") or {}).items():
        keeps = name == head or "learner" in node["resources"]
        yield from node_config_findings(
            config["provider"], f"available_node_types.{name}.node_config", node["node_config"], keeps
        )


def _container(docker: Document) -> Iterator[Finding]:
    if not docker.get("image"):
        yield Finding("docker.image", "got nothing, allowed a pinned image: the same software on every node")
        return
    for key in ("image", "head_image", "worker_image"):
        if key in docker:
            yield from image_findings(f"docker.{key}", docker[key])
    words = [word for option in docker.get("run_options", []) for word in shlex.split(option)]
    if "RAY_AUTH_MODE=token" not in words:
        yield Finding("docker.run_options", "got no --env RAY_AUTH_MODE=token: token authentication is off")
    if "--init" not in words:
        yield Finding("docker.run_options", "got no --init: nobody reaps ended processes")
    if "--publish" in words or "-p" in words or "--privileged" in words:
        yield Finding("docker.run_options", "got published ports or privileges, allowed neither")


def _mounts(mounts: Document) -> Iterator[Finding]:
    if not any(target.endswith(TOKEN_FILE) for target in mounts):
        yield Finding("file_mounts", f"got no …/{TOKEN_FILE}: nodes have no token to authenticate with")
    sources = set(mounts.values())
    for package in _packages():
        if package not in sources and "." not in sources:
            yield Finding("file_mounts", f"got no {package!r}: the project is not whole on the nodes")
    for target, source in mounts.items():
        if not source.startswith(("~", "/")) and not (PROJECT_ROOT / source).exists():
            yield Finding(f"file_mounts.{target}", f"got {source!r}, which is not in the project")


def _packages() -> list[str]:
    """Folders that the project installs, from pyproject.toml."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    return [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]


def _commands(config: Document) -> Iterator[Finding]:
    setup = " ".join(config.get("setup_commands", []))
    if CONSTRAINTS not in setup:
        yield Finding(
            "setup_commands", f"got no --constraint …/{CONSTRAINTS}: nodes would install what is newest that day"
        )
    for field in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config.get(field, []) if "ray start" in command]
        if not starts:
            yield Finding(field, "got no ray start, allowed one: Ray's default leaves metrics and dashboard unset")
        for command in starts:
            yield from _start(field, command)


def _start(field: str, command: str) -> Iterator[Finding]:
    """One `ray start` line."""
    options = dict(word.split("=", 1) for word in command.split() if word.startswith("--") and "=" in word)
    if "--metrics-export-port" not in options:
        yield Finding(field, "got no --metrics-export-port=8080: Prometheus finds no metrics")
    if field.startswith("head"):
        host = options.get("--dashboard-host", "127.0.0.1")
        if host not in LOOPBACK:
            yield Finding(
                field, f"got --dashboard-host={host}, allowed 127.0.0.1: `ray dashboard` makes a tunnel to it"
            )
        if "--autoscaling-config" not in options:
            yield Finding(field, "got no --autoscaling-config=~/ray_bootstrap_config.yaml: no worker would ever start")


def _refused_by_ray(config: Document) -> Iterator[Finding]:
    """What Ray's own preparation refuses, for what the rules above do not know."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    logging.disable(logging.WARNING)  # it remarks on mounts of single files, which is what we mean
    try:
        validate_config(prepare_config(config))
    except (Exception, SystemExit) as error:  # Ray raises many kinds
        yield Finding("config", f"refused by Ray: {' '.join(str(error).split())[:200]}")
    finally:
        logging.disable(logging.NOTSET)
