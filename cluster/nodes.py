"""What becomes of the cluster's nodes: which are lost, and which are about to be taken away.

Ray takes a node for dead after some 15 s without an answer from its raylet. Its port says it at once: where nobody
listens any more that answered before, the process has ended. A node under notice (pre-emption of a spot machine, the
autoscaler's own scale-down, `ray drain-node`) is known to Ray with the time it has left.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import ray

CONNECT_S = 1.0
REFUSALS = 2  # connections in a row that nobody took, before a node counts as lost


@dataclass(frozen=True)
class Node:
    """One node as Ray knows it. address: of its raylet, host and port."""

    node_id: str
    alive: bool
    resources: Mapping[str, float]
    address: tuple[str, int]


@dataclass
class NodeWatch:
    """Follows the nodes that matter to a run; `look` is asked every second or two."""

    _refused: dict[str, int] = field(default_factory=dict)  # connections in a row that nobody took, by node
    _answered: set[str] = field(default_factory=set)  # nodes whose raylet could be reached once
    lost: set[str] = field(default_factory=set)  # so far, ids

    async def look(self, of_interest: Collection[str]) -> tuple[frozenset[str], dict[str, float]]:
        """-> nodes of interest that are newly lost; those under notice, with the seconds they have left."""
        nodes = {node.node_id: node for node in await asyncio.to_thread(nodes_of_cluster)}
        draining = await asyncio.to_thread(draining_nodes)
        watched = [nodes[node_id] for node_id in of_interest if node_id in nodes and node_id not in self.lost]
        gone = await asyncio.gather(*(self._is_gone(node) for node in watched))
        lost = {node.node_id for node, is_gone in zip(watched, gone, strict=True) if is_gone}
        self.lost |= lost
        notice = {node_id: left_s for node_id, left_s in draining.items() if node_id in of_interest}
        return frozenset(lost), notice

    async def _is_gone(self, node: Node) -> bool:
        if not node.alive:
            return True
        taken = await _takes_connections(node.address)
        if taken:
            self._answered.add(node.node_id)
        if taken is False and node.node_id in self._answered:
            self._refused[node.node_id] = self._refused.get(node.node_id, 0) + 1
        else:
            self._refused[node.node_id] = 0
        return self._refused[node.node_id] >= REFUSALS


async def _takes_connections(address: tuple[str, int]) -> bool | None:
    """None: no answer, which may be the network."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        return False
    except OSError:  # a timeout is one, too
        return None
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def nodes_of_cluster() -> list[Node]:
    """Every node that Ray knows, dead ones included."""
    return [
        Node(
            node["NodeID"],
            node["Alive"],
            node["Resources"],
            (node["NodeManagerAddress"], node["NodeManagerPort"]),
        )
        for node in ray.nodes()
    ]


def draining_nodes() -> dict[str, float]:
    """Nodes under notice -> seconds that they have left, infinite where nobody said."""
    from ray._private.state import state  # Ray's own libraries ask there; it has no public way yet

    now_ms = time.time() * 1000
    return {
        node_id: max(0.0, until_ms - now_ms) / 1000 if until_ms else math.inf
        for node_id, until_ms in state.get_draining_nodes().items()
    }
