"""Which class runs as which actor, with what, where: the only place where plain classes become Ray actors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.evaluator import Evaluator
from actors.generator import Generator
from actors.records import Rollout, RolloutTask
from actors.replay import ReplayStore
from actors.scorer import RewardFacts, Scorer
from cluster.actor_group import ActorGroup
from cluster.errors import RunFailed
from cluster.member import PoolEvent
from cluster.placement import Placement, RoleResources, actor_options
from cluster.program import only_here_as, program_of
from cluster.sizing import Bounds
from cluster.supervision import ActorPool
from cluster.weight_bus import Publication
from configs.schema import Config
from learner.delivery import use_newest
from learner.fleet import bounds_of
from learner.learner_actor import LearnerActor
from learner.meeting import MeetingPoint
from learner.pools import Newest, Pools
from rewards.port import ClipBatch


class GeneratorActor(Generator):
    """A Generator whose clips only the scorers fetch and whose rows only the replay store fetches."""

    @ray.method(num_returns=3)
    def roll_out(self, task: RolloutTask) -> tuple[int, Rollout, ClipBatch]:
        """-> policy version, rollout without clips, clips: three objects."""
        rollout, clips = self.rollout_apart(task)
        return rollout.policy_version, rollout, clips


@dataclass(frozen=True)
class Crew:
    """Started actors and what they said of themselves."""

    pools: Pools
    rewards: dict[str, RewardFacts]  # by NAME, in the config's order
    frame_rate_hz: float  # of the policy


class Roles:
    """Spawns the actors of one run."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        epoch: str,
        placement: Placement,
        local: bool,
        on_event: Callable[[PoolEvent], None],
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._epoch = epoch
        self._placement = placement
        self._local = local
        self._on_event = on_event
        self._started: list[ActorPool] = []
        self._meeting: MeetingPoint | None = None  # of the learner's workers, while there are several

    async def start(self, newest: Newest, eval_prompts: tuple[str, ...]) -> Crew:
        """Starts all roles; generators come last, because the rewards say which views of a clip they read.

        Raises RunFailed naming the role that cannot be placed or built.
        """
        scorer, learner = self._scorers(), self._learner()
        replay, evaluator = self._replay(), self._evaluator(eval_prompts)
        await asyncio.gather(*(pool.start() for pool in (scorer, learner, replay, evaluator)))
        rewards: dict[str, RewardFacts] = await scorer.call("facts")
        policy = await learner.call("facts")
        generator = self._generators(rewards, newest, learner)
        await generator.start()
        return Crew(Pools(generator, scorer, replay, learner, evaluator), rewards, policy.frame_rate_hz)

    async def close(self) -> None:
        """Kills every actor that was started."""
        for pool in self._started:
            await pool.close()

    def _generators(self, rewards: dict[str, RewardFacts], newest: Newest, learner: ActorPool) -> ActorPool:
        config, role = self._config, self._placement.generator
        views = frozenset(view for facts in rewards.values() for view in facts.needs)
        arguments = (config.policy.checkpoint, config.codec.checkpoint, views, self._epoch, role.threads)
        spawn = self._spawner(GeneratorActor, role, *arguments, config.actors.generator_precision)

        def prepare(handle: ActorHandle) -> Awaitable[None]:
            return use_newest(newest, learner, lambda publication: _activate(handle, publication))

        return self._pool("generator", spawn, config.actors.generators, prepare=prepare)

    def _scorers(self) -> ActorPool:
        role = self._placement.scorer
        spawn = self._spawner(Scorer, role, self._config.rewards, self._epoch, role.threads)
        return self._pool("scorer", spawn, self._config.actors.scorers)

    def waiting(self) -> str:
        """Which actors have not joined yet, in words."""
        counts = {pool.name: (pool.ready, pool.size) for pool in self._started if pool.pending}
        return ", ".join(f"{ready} of {size} {name}s" for name, (ready, size) in counts.items())

    def _learner(self) -> ActorPool:
        """Never restarted: its state lives in checkpoints, and the run goes on from there by a resume."""
        role, workers = self._placement.learner, self._config.learner.workers
        arguments = (self._config, self._epoch, role.threads)
        if workers == 1:
            spawn = self._spawner(LearnerActor, role, *arguments, on_this_node=True)
            return self._pool("learner", spawn, 1, max_restarts=0)
        meeting = self._meeting = MeetingPoint()
        spawners = [
            self._spawner(LearnerActor, role, *arguments, meeting.place(rank, workers), on_this_node=True)
            for rank in range(workers)
        ]
        group = ActorGroup(
            "learner",
            lambda rank: spawners[rank](rank),
            workers,
            deadline_s=self._config.actors.deadline_s,
            on_event=self._on_event,
            start_deadline_s=self._config.pipeline.stall_s,
        )
        self._started.append(group)
        return group

    def _replay(self) -> ActorPool:
        settings = self._config.replay
        sizes = (settings.max_bytes, settings.segment_rows, settings.times_sampled)
        arguments = (str(self._run_dir / "replay"), self._epoch, *sizes)
        return self._pool(
            "replay", self._spawner(ReplayStore, self._placement.replay, *arguments, on_this_node=True), 1
        )

    def _evaluator(self, prompts: tuple[str, ...]) -> ActorPool:
        role = self._placement.evaluator
        arguments = (self._config, prompts, self._epoch, role.threads)
        return self._pool("evaluator", self._spawner(Evaluator, role, *arguments, on_this_node=True), 1)

    def _spawner(
        self, cls: type, role: RoleResources, *arguments: Any, on_this_node: bool = False
    ) -> Callable[[int], ActorHandle]:
        """on_this_node: writes to the run folder, which lies on the driver's disk."""
        options = actor_options(role, on_this_node=on_this_node, local=self._local)
        if not (on_this_node or self._local):
            cls = only_here_as(cls, program_of())
        actor: Any = ray.remote(cls).options(**options)  # type: ignore[attr-defined]
        return lambda index: actor.remote(*arguments)

    def _pool(
        self,
        name: str,
        spawn: Callable[[int], ActorHandle],
        size: int,
        max_restarts: int | None = None,
        prepare: Any = None,
    ) -> ActorPool:
        actors, bounds = self._config.actors, bounds_of(self._config).get(name, Bounds(size, size))
        grows = bounds.least < bounds.most
        pool = ActorPool(
            name,
            spawn,
            size,
            deadline_s=actors.deadline_s,
            max_restarts=actors.max_restarts if max_restarts is None else max_restarts,
            on_event=self._on_event,
            prepare=prepare,
            start_deadline_s=actors.nodes_deadline_s if grows else self._config.pipeline.stall_s,
            least=bounds.least,
        )
        self._started.append(pool)
        return pool


async def _activate(handle: ActorHandle, publication: Publication) -> None:
    """Raises RunFailed where a generator echoes other weights than it was told to activate."""
    activation = await handle.activate.remote(publication)
    if (activation.version, activation.checksum) != (publication.version, publication.checksum):
        raise RunFailed(f"generator: activated version {activation.version}, told to activate {publication.version}")
