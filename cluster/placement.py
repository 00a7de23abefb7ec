"""How many CPUs and torch threads each role gets, and where it may run.

An actor's torch threads are the CPUs that its role was given. Where the cluster holds the sum of all roles, each
reserves its CPUs for itself. Where it does not, roles that take turns share: in synchronous mode generators, scorers
and learner never work at once, so only the largest turn must fit; in asynchronous mode generators and learner run side
by side and both must. Sharing roles reserve a fraction of a logical CPU each, so that all of them can be scheduled.

A cluster may have node groups: some nodes offer the custom resource `learner`, others `generator` or `scorer` (as in
the launch files). There each role asks for its own resource beside its CPUs, so that it lands on its group, and a group
that stands at zero nodes grows by what is asked for. The driver, the learner, the replay store and the evaluator share
the run folder, hence a node: that of the driver, which therefore has to be one that offers `learner`. The workers of a
learner are all there, each with the CPUs, and if asked for the GPU, of its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import UserError
from cluster.room import NodeType, check_room, fitting, node_types
from cluster.session import PASSIVE_THREADS, joins_cluster
from configs.schema import Config

CLUSTER_WAIT_S = 20.0
GROUPS = ("learner", "generator", "scorer")  # custom resources of node groups, by the role that asks for them
PLACE = 0.001  # of a group's resource that an actor takes: CPUs bound how many share a node, this only says where


@dataclass(frozen=True)
class RoleResources:
    """One actor of a role."""

    threads: int  # torch threads
    cpus: float  # logical CPUs that Ray reserves
    group: str = ""  # resource of the node group that it belongs to; empty: any node
    gpus: int = 0


@dataclass(frozen=True)
class Placement:
    """Resources by role, of one actor each. `shared`: roles take turns on the same cores."""

    generator: RoleResources
    scorer: RoleResources
    learner: RoleResources
    replay: RoleResources
    evaluator: RoleResources
    shared: bool
    notes: tuple[str, ...] = ()  # for a person, before the run starts


def plan(config: Config, node_cpus: Sequence[float]) -> Placement:
    """Placement of `config` on nodes with `node_cpus` CPUs each.

    Raises: UserError naming the setting that asks for more than there is.
    """
    actors, learner_cpus = config.actors, config.learner.cpus * config.learner.workers
    generators = (actors.generators_max or actors.generators) * actors.generator_cpus
    scorers = (actors.scorers_max or actors.scorers) * actors.scorer_cpus
    total = sum(node_cpus)
    _refuse_impossible(config, node_cpus, generators, scorers)
    demand = generators + scorers + learner_cpus
    shared = demand > total
    share = math.floor(total / demand * 100) / 100 if shared else 1.0
    turn = max(generators, learner_cpus) if config.pipeline.mode == "sync" else learner_cpus

    def role(threads: int) -> RoleResources:
        return RoleResources(threads, round(threads * share, 4))

    return Placement(
        generator=role(actors.generator_cpus),
        scorer=role(actors.scorer_cpus),
        learner=replace(role(config.learner.cpus), gpus=config.learner.gpus),
        replay=RoleResources(1, 0.0),
        evaluator=RoleResources(max(1, min(turn, int(max(node_cpus)))), 0.0),
        shared=shared,
    )


def plan_groups(config: Config, nodes: Sequence[Mapping[str, float]], own: Mapping[str, float]) -> Placement:
    """Placement of `config` on a cluster with node groups, each role on nodes of its own.

    nodes: resources of each alive node. own: those of the driver's node. Groups that stand at zero nodes are not
    counted: they grow.

    Raises: UserError where the driver is not on a learner node, or a role asks for more than a node of its group has.
    """
    actors = config.actors
    if "learner" not in own:
        raise UserError(
            "entrypoint-resources: got a driver on a node without the resource 'learner', allowed a learner node: "
            "ray job submit --entrypoint-resources '{\"learner\": 0.001}' ..."
        )
    for setting, cpus, group in (
        (_learner_setting(config), config.learner.cpus * config.learner.workers, [own]),
        ("actors.generator_cpus", actors.generator_cpus, [node for node in nodes if "generator" in node]),
        ("actors.scorer_cpus", actors.scorer_cpus, [node for node in nodes if "scorer" in node]),
    ):
        largest = max((node.get("CPU", 0.0) for node in group), default=math.inf)
        if cpus > largest:
            raise UserError(f"{setting}: got {cpus}, allowed at most {largest:g}, the CPUs of a node of its group")
    return Placement(
        generator=RoleResources(actors.generator_cpus, actors.generator_cpus, "generator"),
        scorer=RoleResources(actors.scorer_cpus, actors.scorer_cpus, "scorer"),
        learner=RoleResources(config.learner.cpus, config.learner.cpus, "learner", config.learner.gpus),
        replay=RoleResources(1, 0.0, "learner"),
        evaluator=RoleResources(config.learner.cpus, 0.0, "learner"),
        shared=False,
    )


async def plan_on_cluster(config: Config, wait_s: float = CLUSTER_WAIT_S) -> Placement:
    """The plan for the connected cluster; nodes that are still joining are given `wait_s`."""
    give_up, types = time.monotonic() + wait_s, _Types()
    while True:
        nodes = alive_nodes()
        own = nodes.get(ray.get_runtime_context().get_node_id(), {})
        try:
            check_gpus(config, own)
            if any("learner" in node for node in nodes.values()):
                made = plan_groups(config, list(nodes.values()), own)
                return replace(made, notes=await _notes(config, made, list(nodes.values()), types))
            return plan(config, [node.get("CPU", 0.0) for node in nodes.values()])
        except UserError:
            if time.monotonic() >= give_up or not joins_cluster():
                raise
        await asyncio.sleep(1.0)


class _Types:
    """The autoscaler's node types, asked for once, and only if the nodes that are there do not suffice."""

    _found: list[NodeType] | None = None
    _asked = False

    async def get(self) -> list[NodeType] | None:
        if not self._asked:
            self._found, self._asked = await asyncio.to_thread(node_types), True
        return self._found


async def _notes(
    config: Config, made: Placement, nodes: Sequence[Mapping[str, float]], types: _Types
) -> tuple[str, ...]:
    """What a person should know of the room for growing groups. Raises UserError where there can never be enough."""
    wishes = {role.group: {"CPU": role.cpus, role.group: PLACE} for role in (made.generator, made.scorer)}
    most = {role: most_of(config, f"{role}s")[1] for role in wishes}
    enough = all(sum(fitting(node, wish) for node in nodes) >= most[role] for role, wish in wishes.items())
    return () if enough else tuple(check_room(config, wishes, nodes, await types.get()))


def check_gpus(config: Config, own: Mapping[str, float]) -> None:
    """own: resources of the driver's node. Raises UserError where the learner asks for more GPUs than it has."""
    learner, there = config.learner, int(own.get("GPU", 0))
    if learner.workers * learner.gpus > there:
        raise UserError(
            f"learner.workers: got {learner.workers} with learner.gpus={learner.gpus}, allowed at most {there}, the "
            "GPUs of the driver's node" + ("" if there else " (for workers on CPUs: learner.gpus=0)")
        )


def alive_nodes() -> dict[str, dict[str, float]]:
    """Resources of each alive node, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def actor_options(role: RoleResources, *, on_this_node: bool, local: bool) -> dict[str, Any]:
    """Ray options of an actor that we restart ourselves.

    on_this_node: it writes to the run folder on the driver's disk. local: the cluster was started by this process, and
    its workers inherit the environment that `cluster.session` made.
    """
    options: dict[str, Any] = {"num_cpus": role.cpus, "max_restarts": 0, "max_task_retries": 0}
    if role.gpus:
        options["num_gpus"] = role.gpus
    if role.group:
        options["resources"] = {role.group: PLACE}
    if not local:  # starting an actor with a runtime environment of its own costs a second, so only where it must be
        options["runtime_env"] = {"env_vars": {**PASSIVE_THREADS, "OMP_NUM_THREADS": str(role.threads)}}
    if on_this_node:
        node_id = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return options


def _learner_setting(config: Config) -> str:
    """What asks for the learner's CPUs."""
    return "learner.cpus" if config.learner.workers == 1 else "learner.workers x learner.cpus"


def _refuse_impossible(config: Config, node_cpus: Sequence[float], generators: int, scorers: int) -> None:
    largest, total = max(node_cpus, default=0.0), sum(node_cpus)
    learner_cpus = config.learner.cpus * config.learner.workers
    for setting, cpus in (
        ("actors.generator_cpus", config.actors.generator_cpus),
        ("actors.scorer_cpus", config.actors.scorer_cpus),
        (_learner_setting(config), learner_cpus),
    ):
        if cpus > largest:
            raise UserError(f"{setting}: got {cpus}, allowed at most {largest:g}, the CPUs of the largest node")
    combine: Callable[[int, int], int] = max if config.pipeline.mode == "sync" else (lambda a, b: a + b)
    at_once = combine(generators, learner_cpus)
    if at_once > total:
        rule = "the larger of both" if config.pipeline.mode == "sync" else "both together"
        field, count = most_of(config, "generators")
        raise UserError(
            f"{field}: got {count} x {config.actors.generator_cpus} CPUs and {_learner_setting(config)} "
            f"{learner_cpus}, allowed {total:g} CPUs for {rule} (this cluster, {config.pipeline.mode} mode)"
        )
    if scorers > total:
        field, count = most_of(config, "scorers")
        raise UserError(f"{field}: got {count} x {config.actors.scorer_cpus} CPUs, allowed {total:g} in this cluster")


def most_of(config: Config, role: str) -> tuple[str, int]:
    """The setting that bounds a role from above, and its value."""
    most = getattr(config.actors, f"{role}_max")
    return (f"actors.{role}_max", most) if most else (f"actors.{role}", getattr(config.actors, role))
