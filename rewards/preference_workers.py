"""The training of the preference model on Ray Train workers.

Each worker takes its share of every batch; gradients are averaged by DistributedDataParallel. A worker that dies is
replaced, and all go on from the newest checkpoint; the same holds for a run whose driver died.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cluster.errors import RunFailed
from cluster.session import ray_session
from rewards.preference_task import Task, make_trainer
from rewards.training import Progress

MOST_FAILURES = 3
STATE = "state.pt"
_NO_MORE = None  # ends the lines of progress


def train_on_workers(task: Task, folder: Path, progress: Progress) -> dict[str, Any]:
    """Trains on `workers` workers, checkpoints in `folder` -> the trainer's last state. Raises RunFailed."""
    with _connected():
        import ray
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        settings = task.settings
        with _spoken(progress) as lines:
            trainer = TorchTrainer(
                _work,
                train_loop_config={"task": ray.put(task), "lines": lines},
                scaling_config=ScalingConfig(
                    num_workers=settings.workers,
                    use_gpu=settings.gpu,
                    resources_per_worker={"CPU": settings.threads, **({"GPU": 1} if settings.gpu else {})},
                ),
                run_config=RunConfig(
                    name="workers",
                    storage_path=str(folder.absolute()),
                    failure_config=FailureConfig(max_failures=MOST_FAILURES),
                    checkpoint_config=CheckpointConfig(num_to_keep=2),
                ),
            )
            try:
                result = trainer.fit()
            except ray.train.TrainingFailedError as error:
                raise RunFailed(f"preference: training failed ({' '.join(str(error).split())[:300]})") from error
        assert result.checkpoint is not None, "every worker reports at least once"
        return _stored(result.checkpoint)


def _work(config: dict[str, Any]) -> None:
    """One worker's loop."""
    import ray
    import ray.train
    from ray.train.torch import get_device, prepare_model

    task: Task = ray.get(config["task"])
    torch.set_num_threads(task.settings.threads)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    wrap = prepare_model if workers > 1 else torch.nn.Identity()
    checkpoint = ray.train.get_checkpoint()
    trainer = make_trainer(task, str(get_device()), checkpoint is not None, rank=rank, workers=workers, wrap=wrap)
    if checkpoint is not None:
        trainer.restore(_stored(checkpoint))
        _say(config["lines"], rank, [f"preference: going on from step {trainer.step}"])
    while True:
        _say(config["lines"], rank, trainer.advance(trainer.step + task.settings.checkpoint_every))
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if rank == 0:
                torch.save(trainer.state(), Path(folder) / STATE)
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": trainer.step, "valid_loss": trainer.best_loss}, checkpoint=saved)
        if trainer.finished:
            return


def _stored(checkpoint: Any) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")


def _say(lines: Any, rank: int, said: list[str]) -> None:
    if rank == 0:
        for line in said:
            lines.put(line)


@contextmanager
def _spoken(progress: Progress) -> Iterator[Any]:
    """A queue whose lines are handed to `progress` as they come."""
    from ray.util.queue import Queue

    lines = Queue(actor_options={"num_cpus": 0})

    def listen() -> None:
        while (line := lines.get()) is not _NO_MORE:
            progress(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield lines
    finally:
        lines.put(_NO_MORE)
        listener.join(timeout=10)
        lines.shutdown()


def _connected() -> Any:
    """The Ray that this process is connected to; else one by cluster.session."""
    import sys

    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            return nullcontext()
    return ray_session()
