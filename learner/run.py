"""One run from its config to its report: connect, place, start, loop, report."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import Interrupted, RunFailed, UserError
from cluster.heartbeat import Heartbeat
from cluster.ledger import Ledger
from cluster.session import ray_session
from configs.schema import Config
from learner.progress import Progress
from learner.prompts import PromptCursor, load_prompts
from learner.run_folder import RunFolder

# What imports ray is imported by the functions below: `ray_session` must set its environment first.

RESUME_HINT = "go on with: python -m learner.main run.resume={}"


def run(config: Config) -> Path:
    """Runs `config`, or goes on with the run in `config.run.resume` -> the report.

    Raises: UserError before anything starts; RunFailed, with the way back; KeyboardInterrupt after a clean stop.
    """
    if config.replay.times_sampled != 1:
        raise UserError(f"replay.times_sampled: got {config.replay.times_sampled}, allowed 1")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # answers of actors that were killed for being late
    ledger = Ledger()
    with (
        Progress(config.learner.steps, config.metrics.progress, title=f"MusicRL {config.preset}") as progress,
        Heartbeat(config.pipeline.stall_s) as heart,
        ray_session() as local,
    ):
        try:
            run_dir, stopped_by = asyncio.run(_run(config, progress, ledger, local, heart))
        except Interrupted:
            heart.beat("leaving Ray")
            raise KeyboardInterrupt from None
        progress.status("writing the report")
        heart.beat("writing the report")
        from evaluation.report import write_report

        with disk_errors(run_dir):
            report = write_report(run_dir)
        heart.beat("leaving Ray")
    print(f"{stopped_by}; report: {report}" if stopped_by else f"report: {report}", flush=True)
    return report


async def _run(config: Config, progress: Progress, ledger: Ledger, local: bool, heart: Heartbeat) -> tuple[Path, str]:
    """-> the run folder, and what the guard stopped the run for (empty: it did not)."""
    from cluster.placement import plan_on_cluster

    beats = asyncio.create_task(heart.keep("its own loop"))  # ends with the loop
    placement = await plan_on_cluster(config)
    folder = RunFolder.reopen(config) if config.run.resume else RunFolder.create(config)
    progress.message(f"run folder: {folder.path}")
    heart.hint = RESUME_HINT.format(folder.path)
    try:
        with _signals(progress) as stops, disk_errors(folder.path):
            stopped_by = await _loop(config, folder.path.absolute(), placement, local, progress, ledger, stops)
    except Interrupted:
        if folder.checkpoint_steps():
            progress.message(RESUME_HINT.format(folder.path))
        raise
    except RunFailed as error:
        if folder.checkpoint_steps():
            raise RunFailed(f"{error}; {RESUME_HINT.format(folder.path)}") from error
        raise
    finally:
        folder.close()
        beats.cancel()
    return folder.path, stopped_by


@contextmanager
def disk_errors(run_dir: Path) -> Iterator[None]:
    """What the disk refuses in the body, here or in an actor, becomes RunFailed: which file, why, and what helps."""
    try:
        yield
    except OSError as error:
        why, name = error.strerror or " ".join(str(error).split()), f" ({error.filename})" if error.filename else ""
        remedy = "; make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RunFailed(f"run.dir: cannot write to {run_dir}: {why}{name}{remedy}") from error


async def _loop(
    config: Config,
    run_dir: Path,
    placement: Any,
    local: bool,
    progress: Progress,
    ledger: Ledger,
    stops: list[Callable[[], None]],
) -> str:
    """Starts the actors and hands over to the controller; ends them whatever happens. -> Controller.stopped_by."""
    from learner.checkpoint import require_complete
    from learner.controller import Controller
    from learner.pools import Newest
    from learner.recorder import Recorder
    from learner.roles import Roles
    from learner.tasks import TaskPlan

    resume_from = require_complete(run_dir) if config.run.resume else None
    prompts = config.prompts
    train = load_prompts(prompts.train, prompts.column, prompts.max_chars, "prompts.train")
    held_out = load_prompts(prompts.eval, prompts.column, prompts.max_chars, "prompts.eval")
    recorder = Recorder(config, run_dir, progress, measure_memory=local)
    newest, epoch = Newest(), uuid.uuid4().hex
    progress.status("starting actors")
    roles = Roles(config, run_dir, epoch, placement, local, recorder.event)
    try:
        crew = await roles.start(newest, tuple(held_out))
        plan = TaskPlan(config, PromptCursor(train, config.run.seed), crew.frame_rate_hz)
        score = _scoring(config, crew, epoch)
        controller = Controller(config, run_dir, crew.pools, newest, plan, score, recorder, ledger)
        stops.append(controller.stop)
        recorder.watch(controller.live)
        await controller.run(resume_from)
        return controller.stopped_by
    except asyncio.CancelledError:
        raise Interrupted from None
    finally:
        await roles.close()
        recorder.close()


def _scoring(config: Config, crew: Any, epoch: str) -> Callable[[Any, int], Coroutine[Any, Any, Any]]:
    """Scores the clips behind a reference with every reward, and mixes."""
    from actors.scorer_pool import ScorerPool
    from learner.pools import Scored
    from rewards.mixture import RewardSpec, mix

    specs = {
        name: RewardSpec(config.rewards[name].weight, facts.shift, facts.scale) for name, facts in crew.rewards.items()
    }
    pool = ScorerPool(crew.pools.scorer, {name: config.rewards[name].deadline_s for name in crew.rewards}, epoch)

    async def score(clips: Any, rows: int) -> Scored:
        table = await pool.score(clips, rows)
        return Scored(table, mix(table.scores, specs)[0])

    return score


@contextmanager
def _signals(progress: Progress) -> Iterator[list[Callable[[], None]]]:
    """SIGINT and SIGTERM: the first asks for a checkpoint after this step, by calling what was put into the list; the
    second, or one that finds nothing there yet, cancels."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    stops: list[Callable[[], None]] = []
    asked = False

    def heard() -> None:
        nonlocal asked
        if asked or not stops:
            assert task is not None
            task.cancel()
            return
        asked = True
        progress.message("stopping after this step, with a checkpoint; once more to stop at once")
        stops[0]()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, heard)
    try:
        yield stops
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
