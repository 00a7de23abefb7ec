"""One run from its config to its report: connect, place, start, loop, report."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import Interrupted, RunFailed, UserError
from cluster.heartbeat import Heartbeat
from cluster.ledger import Ledger
from cluster.object_store import ENDPOINT_VARIABLES
from cluster.session import ray_session
from cluster.working_copy import CACHE_VARIABLE
from configs.schema import Config
from learner.memory import object_store_bytes
from learner.progress import Progress
from learner.prompts import PromptCursor, load_prompts
from learner.run_folder import RunFolder

# What imports ray is imported by the functions below: `ray_session` must set its environment first.

TOLD_EVERY_S = 20.0  # of waiting for actors at the start
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
        ray_session(_of_the_machine(config), object_store_bytes(config)) as local,
    ):
        try:
            folder, stopped_by = asyncio.run(_run(config, progress, ledger, local, heart))
            progress.status("writing the report")
            heart.beat("writing the report")
            report = _finish(folder, heart)
        except Interrupted:
            raise KeyboardInterrupt from None
        finally:
            heart.beat("leaving Ray")
    shown = folder.shown(report)
    print(f"{stopped_by}; report: {shown}" if stopped_by else f"report: {shown}", flush=True)
    return report


def _finish(folder: RunFolder, heart: Heartbeat) -> Path:
    """Writes the report of a finished run and lets go of its folder."""
    from evaluation.report import write_report

    try:
        with disk_errors(folder.path):
            report = write_report(folder.path)
        folder.finish(heart.beat)
    except RunFailed as error:
        raise RunFailed(f"{error}; {RESUME_HINT.format(folder.name)}") from error
    finally:
        folder.close()
    return report


def _of_the_machine(config: Config) -> dict[str, str]:
    """Settings that processes on other nodes read from their environment."""
    given = {ENDPOINT_VARIABLES[0]: config.storage.endpoint, CACHE_VARIABLE: config.storage.cache}
    return {name: value for name, value in given.items() if value}


async def _run(
    config: Config, progress: Progress, ledger: Ledger, local: bool, heart: Heartbeat
) -> tuple[RunFolder, str]:
    """-> the run folder, still open, and what the guard stopped the run for (empty: it did not)."""
    from cluster.placement import plan_on_cluster

    beats = asyncio.create_task(heart.keep("its own loop"))  # ends with the loop
    placement = await plan_on_cluster(config)
    for note in placement.notes:
        progress.message(note)
    # in a thread: fetching a run from object storage may take longer than this loop may stand still
    with disk_errors(Path(config.run.resume or config.run.dir)):
        folder = await asyncio.to_thread(RunFolder.reopen if config.run.resume else RunFolder.create, config, progress)
    progress.message(f"run folder: {folder.name}")
    heart.hint = RESUME_HINT.format(folder.name)
    try:
        with _signals(progress) as stops, disk_errors(folder.path):
            stopped_by = await _loop(config, folder, placement, local, progress, ledger, stops)
    except BaseException as error:
        resumable = bool(folder.checkpoint_steps())
        await asyncio.to_thread(folder.close)
        if isinstance(error, Interrupted) and resumable:
            progress.message(RESUME_HINT.format(folder.name))
        if isinstance(error, RunFailed) and resumable:
            raise RunFailed(f"{error}; {RESUME_HINT.format(folder.name)}") from error
        raise
    finally:
        beats.cancel()
    return folder, stopped_by


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
    folder: RunFolder,
    placement: Any,
    local: bool,
    progress: Progress,
    ledger: Ledger,
    stops: list[Callable[[], None]],
) -> str:
    """Starts the actors and hands over to the controller; ends them whatever happens. -> Controller.stopped_by."""
    from cluster.nodes import NodeWatch
    from learner.checkpoint import require_complete
    from learner.controller import Controller
    from learner.pools import Newest
    from learner.recorder import Recorder
    from learner.roles import Roles
    from learner.tasks import TaskPlan

    run_dir = folder.path
    resume_from = require_complete(run_dir) if config.run.resume else None
    prompts = config.prompts
    train = load_prompts(prompts.train, prompts.column, prompts.max_chars, "prompts.train")
    held_out = load_prompts(prompts.eval, prompts.column, prompts.max_chars, "prompts.eval")
    recorder = Recorder(config, run_dir, progress, measure_memory=local)
    newest, epoch = Newest(), folder.epoch
    progress.status("starting actors")
    roles = Roles(config, run_dir, epoch, placement, local, recorder.event)
    try:
        crew = await _started(roles, newest, tuple(held_out), progress)
        plan = TaskPlan(config, PromptCursor(train, config.run.seed), crew.frame_rate_hz)
        nodes = None if local else NodeWatch()
        score = _scoring(config, crew, epoch)
        controller = Controller(config, run_dir, crew.pools, newest, plan, score, recorder, ledger, folder.flush, nodes)
        stops.append(controller.stop)
        recorder.watch(lambda: {**controller.live(), **folder.live()})
        await _while_owned(folder, controller.run(resume_from))
        return controller.stopped_by
    except asyncio.CancelledError:
        raise Interrupted from None
    finally:
        await roles.close()
        recorder.close()


async def _while_owned(folder: RunFolder, run: Coroutine[Any, Any, None]) -> None:
    """Raises what `run` raises, or RunFailed as soon as the folder is no longer ours to write to."""
    running = asyncio.ensure_future(run)
    watching = asyncio.ensure_future(folder.watch())
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done() and not running.done():
            running.cancel()
            await asyncio.wait({running})
            watching.result()
        await running
    finally:
        running.cancel()
        watching.cancel()
        await asyncio.wait({running, watching})


async def _started(roles: Any, newest: Any, held_out: tuple[str, ...], progress: Progress) -> Any:
    """The crew, as soon as everybody is there that the run cannot begin without. Waiting is said."""
    starting, began_s = asyncio.ensure_future(roles.start(newest, held_out)), time.monotonic()
    try:
        while not (await asyncio.wait({starting}, timeout=TOLD_EVERY_S))[0]:
            waited_s = time.monotonic() - began_s
            progress.message(f"waiting for nodes, or for actors to start, for {waited_s:.0f} s: {roles.waiting()}")
        return starting.result()
    finally:
        starting.cancel()


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
