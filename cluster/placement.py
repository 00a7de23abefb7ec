"""How many CPUs and torch threads each role gets, and where it may run.

An actor's torch threads are the CPUs that its role was given. Where the cluster holds the sum of all roles, each
reserves its CPUs for itself. Where it does not, roles that take turns share: in synchronous mode generators, scorers
and learner never work at once, so only the largest turn must fit; in asynchronous mode generators and learner run side
by side and both must. Sharing roles reserve a fraction of a logical CPU each, so that all of them can be scheduled.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.errors import UserError
from cluster.session import PASSIVE_THREADS, joins_cluster
from configs.schema import Config

CLUSTER_WAIT_S = 20.0


@dataclass(frozen=True)
class RoleResources:
    """One actor of a role."""

    threads: int  # torch threads
    cpus: float  # logical CPUs that Ray reserves


@dataclass(frozen=True)
class Placement:
    """Resources by role. `shared`: roles take turns on the same cores."""

    generator: RoleResources
    scorer: RoleResources
    learner: RoleResources
    replay: RoleResources
    evaluator: RoleResources
    shared: bool


def plan(config: Config, node_cpus: Sequence[float]) -> Placement:
    """Placement of `config` on nodes with `node_cpus` CPUs each.

    Raises: UserError naming the setting that asks for more than there is.
    """
    actors, learner_cpus = config.actors, config.learner.cpus
    generators = actors.generators * actors.generator_cpus
    scorers = actors.scorers * actors.scorer_cpus
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
        learner=role(learner_cpus),
        replay=RoleResources(1, 0.0),
        evaluator=RoleResources(max(1, min(turn, int(max(node_cpus)))), 0.0),
        shared=shared,
    )


async def plan_on_cluster(config: Config, wait_s: float = CLUSTER_WAIT_S) -> Placement:
    """`plan` on the connected cluster; nodes that are still joining are given `wait_s`."""
    give_up = time.monotonic() + wait_s
    while True:
        try:
            return plan(config, alive_node_cpus())
        except UserError:
            if time.monotonic() >= give_up or not joins_cluster():
                raise
        await asyncio.sleep(1.0)


def alive_node_cpus() -> list[float]:
    """CPUs of each alive node."""
    return [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]


def actor_options(role: RoleResources, *, on_this_node: bool, local: bool) -> dict[str, Any]:
    """Ray options of an actor that we restart ourselves.

    on_this_node: it writes to the run folder on the driver's disk. local: the cluster was started by this process, and
    its workers inherit the environment that `cluster.session` made.
    """
    options: dict[str, Any] = {"num_cpus": role.cpus, "max_restarts": 0, "max_task_retries": 0}
    if not local:  # starting an actor with a runtime environment of its own costs a second, so only where it must be
        options["runtime_env"] = {"env_vars": {**PASSIVE_THREADS, "OMP_NUM_THREADS": str(role.threads)}}
    if on_this_node:
        node_id = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return options


def _refuse_impossible(config: Config, node_cpus: Sequence[float], generators: int, scorers: int) -> None:
    largest, total = max(node_cpus, default=0.0), sum(node_cpus)
    for setting, cpus in (
        ("actors.generator_cpus", config.actors.generator_cpus),
        ("actors.scorer_cpus", config.actors.scorer_cpus),
        ("learner.cpus", config.learner.cpus),
    ):
        if cpus > largest:
            raise UserError(f"{setting}: got {cpus}, allowed at most {largest:g}, the CPUs of the largest node")
    combine: Callable[[int, int], int] = max if config.pipeline.mode == "sync" else (lambda a, b: a + b)
    at_once = combine(generators, config.learner.cpus)
    if at_once > total:
        rule = "the larger of both" if config.pipeline.mode == "sync" else "both together"
        raise UserError(
            f"actors.generators: got {config.actors.generators} x {config.actors.generator_cpus} CPUs and learner.cpus "
            f"{config.learner.cpus}, allowed {total:g} CPUs for {rule} (this cluster, {config.pipeline.mode} mode)"
        )
    if scorers > total:
        raise UserError(
            f"actors.scorers: got {config.actors.scorers} x {config.actors.scorer_cpus} CPUs, allowed {total:g} in "
            "this cluster"
        )
