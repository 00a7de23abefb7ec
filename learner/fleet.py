"""How many generators and scorers a run has, from moment to moment, and on which nodes.

    every second     nodes lost ──▶ their members are replaced at once, their calls go elsewhere
                     nodes under notice ──▶ their members end their call, or hand it back in time
                     sizes asked for ──▶ pools grow (the autoscaler sees actors that wait for a node) or shrink
    every step       the ledger's row ──▶ cluster.sizing ──▶ the same

Who joins fetches and activates the newest weights before it takes work (cluster.supervision). Tasks carry their own
seeds, so that in synchronous mode a run's results do not depend on how many there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from cluster.nodes import NodeWatch
from cluster.sizing import Bounds, Sizer, StepTime
from configs.schema import Config
from learner.activity import Activity
from learner.pools import Pool, Pools
from learner.producer import Producer
from learner.recorder import Recorder

logger = logging.getLogger(__name__)

Row = dict[str, int | float]

TICK_S = 1.0
TOLD_AFTER_S = (10.0, 30.0, 60.0)  # of waiting for nodes; from the last on, every so often
WORK = {"generator": ("busy_sample", "busy_decode"), "scorer": ("busy_score",)}  # columns of a role's work
LEARNER = ("seconds_learn", "seconds_insert", "seconds_publish")  # what only the learner's side can do, every step


def bounds_of(config: Config) -> dict[str, Bounds]:
    """By role: fixed where no most is set; never more generators than tasks may be under way at once."""
    actors = config.actors
    versions = 1 + (config.pipeline.max_staleness if config.pipeline.mode == "async" else 0)
    at_once = versions * config.learner.batch_size // actors.rollout_size
    fixed = {"generator": actors.generators, "scorer": actors.scorers}
    asked = {
        "generator": (actors.generators_min, min(actors.generators_max, max(at_once, actors.generators))),
        "scorer": (actors.scorers_min, actors.scorers_max),
    }
    return {role: Bounds(*asked[role]) if asked[role][1] else Bounds(size, size) for role, size in fixed.items()}


class Fleet:
    """One per run. nodes: None where the cluster is this process's own, whose one node ends with it."""

    def __init__(
        self,
        config: Config,
        pools: Pools,
        producer: Producer,
        activity: Activity,
        recorder: Recorder,
        nodes: NodeWatch | None,
    ) -> None:
        self._pools: dict[str, Pool] = {"generator": pools.generator, "scorer": pools.scorer}
        self._producer = producer
        self._activity = activity
        self._recorder = recorder
        self._nodes = nodes
        self._bounds = bounds_of(config)
        self._grows = any(bound.least < bound.most for bound in self._bounds.values())
        self._sizer = Sizer(self._bounds, config.actors.resize_rest_s)
        self._deadline_s = config.actors.nodes_deadline_s
        self._asked = {role: pool.size for role, pool in self._pools.items()}
        self._waited = dict.fromkeys(self._pools, 0.0)
        self._told_s = 0.0

    def stepped(self, row: Mapping[str, int | float]) -> None:
        """A learner step is done; `row`: its metrics, the ledger among them."""
        work_s = {role: sum(row[name] for name in names) for role, names in WORK.items()}
        self._sizer.stepped(StepTime(sum(row[name] for name in LEARNER), work_s), self._asked)
        if self._grows:
            self._resize(time.monotonic())

    def live(self) -> Row:
        """What Prometheus sees."""
        return {
            **{f"pending_{role}": pool.pending for role, pool in self._pools.items()},
            "nodes_wait": max(pool.longest_wait_s for pool in self._pools.values()),
            "nodes_wait_bound": self._deadline_s,
        }

    async def watch(self) -> None:
        """Never returns, except where there is nothing to watch."""
        while self._grows or self._nodes is not None:
            await asyncio.sleep(TICK_S)
            if self._nodes is not None:
                await self._follow(self._nodes)
            self._resize(time.monotonic())
            self._tell_of_waiting()

    async def _follow(self, nodes: NodeWatch) -> None:
        """Takes members off nodes that are lost or under notice."""
        try:
            lost, notice = await nodes.look(frozenset().union(*(pool.nodes for pool in self._pools.values())))
        except (
            Exception
        ) as error:  # the cluster's head may be away for a moment; whoever is lost is noticed by its calls
            logger.warning("nodes cannot be looked at: %s", error)
            return
        for pool in self._pools.values():
            if lost:
                pool.lose_nodes(lost)
            if notice:
                pool.drain(notice)

    def _resize(self, now_s: float) -> None:
        for role, pool in self._pools.items():
            if pool.size < self._asked[role]:
                self._sizer.refused(role, now_s)
            elif self._waited[role] and not pool.pending:
                self._sizer.joined(role)
                self._recorder.message(f"{role}s: {pool.ready} of {pool.size} there after {self._waited[role]:.0f} s")
            self._waited[role] = pool.longest_wait_s
            self._asked[role] = pool.size
        work = {"generator": self._producer.needs_generators, "scorer": self._producer.needs_scorers}
        for change in self._sizer.decide(now_s, self._asked, work):
            pool = self._pools[change.role]
            self._recorder.message(f"{change.role}s: {pool.size} to {change.size}: {change.reason}")
            pool.resize(change.size)
            self._asked[change.role] = pool.size
        self._producer.issue()

    def _tell_of_waiting(self) -> None:
        """A line now and then, and the panel. While nobody is there at all, the deadline of nodes counts, and not that
        of a stall."""
        waiting = [pool for pool in self._pools.values() if pool.pending]
        if any(pool.ready == 0 for pool in waiting):
            self._activity.forgive(self._activity.idle_s)
        line = ", ".join(
            f"{pool.ready} of {pool.size} {pool.name}s" + (f" ({pool.pending} wait)" if pool.pending else "")
            for pool in self._pools.values()
        )
        waited_s = max((pool.longest_wait_s for pool in waiting), default=0.0)
        line += f"; waiting for nodes or starting for {waited_s:.0f} s of {self._deadline_s:.0f} s" if waiting else ""
        self._recorder.actors(line)
        due_s = next((each for each in TOLD_AFTER_S if each > self._told_s), self._told_s + TOLD_AFTER_S[-1])
        if waited_s >= due_s:
            self._recorder.message(line)
            self._told_s = waited_s
        elif not waiting:
            self._told_s = 0.0
