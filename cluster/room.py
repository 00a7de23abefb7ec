"""Whether a cluster with node groups has room for a run's actors, now or once its autoscaler has added nodes.

A wish that no node and no node type can grant would wait in silence until a deadline ends the run. It is refused before
anything starts instead, with what the cluster offers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from cluster.errors import UserError
from configs.schema import Config

HEAD = "node:__internal_head__"  # resource that only the head has
ASK_HEAD_S = 60.0
UNKNOWN = "unknown"  # there is an autoscaler whose configuration is no file

Resources = Mapping[str, float]


@dataclass(frozen=True)
class NodeType:
    """Nodes that the autoscaler can start: `most` in all, with these resources each."""

    name: str
    resources: Resources
    most: int

    def __str__(self) -> str:
        offers = ", ".join(f"{name} {amount:g}" for name, amount in self.resources.items())
        return f"{self.name} ({offers}; at most {self.most})"


def check_room(
    config: Config, wishes: Mapping[str, Resources], nodes: Sequence[Resources], types: Sequence[NodeType] | None
) -> list[str]:
    """Notes for a person: what is there, what has to be waited for, what never comes.

    wishes: what one actor of a growing or waiting role asks for, by role. types: None where nobody can say.
    Raises: UserError where a role cannot have the actors that it starts with.
    """
    notes = []
    for role, wish in wishes.items():
        size, most = getattr(config.actors, f"{role}s"), getattr(config.actors, f"{role}s_max")
        now = sum(fitting(node, wish) for node in nodes)
        later = None if types is None else max(now, sum(kind.most * fitting(kind.resources, wish) for kind in types))
        if later is not None and later < size:
            raise UserError(_refusal(role, size, wish, later, types or ()))
        if later is not None and later < most:
            notes.append(f"actors.{role}s_max is {most}, but the cluster holds {later} at most")
        if now < size:
            comes = "whether nodes can be added is not known here" if later is None else "the autoscaler can add nodes"
            notes.append(f"{role}s: room for {now} of {size} now, {comes}")
    return notes


def fitting(offer: Resources, wish: Resources) -> int:
    """How many actors with that wish one node holds."""
    shares = [offer.get(name, 0.0) / amount for name, amount in wish.items() if amount > 0]
    return math.floor(min(shares, default=math.inf) + 1e-9) if shares else 0


def _refusal(role: str, size: int, wish: Resources, later: int, types: Sequence[NodeType]) -> str:
    asks = ", ".join(f"{name} {amount:g}" for name, amount in wish.items())
    offers = "; ".join(map(str, types)) or "no autoscaler was found, and no further node"
    what = f"allowed at most {later}" if later else "which no node and no node type offers"
    return f"actors.{role}s: got {size} that ask for {asks} each, {what}; to be had: {offers}"


def node_types() -> list[NodeType] | None:
    """What the cluster's autoscaler can start; empty: there is none; None: it cannot be asked.

    The head knows: the autoscaler runs there, with a file as `ray up` wrote it. KubeRay's reads a Kubernetes object
    instead, and where hosts are listed by hand the file does not say what each offers.
    """
    task: Any = ray.remote(read_autoscaler_file)
    on_head = task.options(num_cpus=0, resources={HEAD: 0.001}, max_retries=0)
    asked = on_head.remote(ray.get_runtime_context().gcs_address)
    try:
        text = ray.get(asked, timeout=ASK_HEAD_S)
    except (ray.exceptions.RayError, TimeoutError):
        return None
    return parse_node_types(text)


def read_autoscaler_file(gcs_address: str) -> str:
    """The configuration of this machine's autoscaler of the cluster at `gcs_address`; empty where there is none."""
    import psutil

    option = "--autoscaling-config="
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        paths = [word.removeprefix(option) for word in words if word.startswith(option)]
        port = gcs_address.rpartition(":")[2]  # this is the head: another address of it is the same
        if paths and any(word.startswith("--gcs-address=") and word.endswith(f":{port}") for word in words):
            with suppress(OSError):
                return Path(paths[0]).expanduser().read_text(encoding="utf-8")
            return UNKNOWN
    return UNKNOWN if "KUBERNETES_SERVICE_HOST" in os.environ else ""


def parse_node_types(text: str) -> list[NodeType] | None:
    """The worker groups of a launcher's configuration, within its bounds."""
    config = yaml.safe_load(text) if text else {}
    if text == UNKNOWN or not isinstance(config, dict) or (config.get("provider") or {}).get("type") == "local":
        return None
    head, limit = config.get("head_node_type"), int(config.get("max_workers", 10**6))
    return [
        NodeType(name, group.get("resources") or {}, min(limit, int(group.get("max_workers", limit))))
        for name, group in (config.get("available_node_types") or {}).items()
        if name != head
    ]
