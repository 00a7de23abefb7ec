"""Trains a preference reward model: votes in, a checkpoint with its figures out.

    python -m rewards.train preference pairs=FILE.parquet policy=assets/tiny/policy out=DIR [key=value …]

The training runs on Ray Train workers (in the Ray of this process, on the cluster of a job, or in a small one of its
own), or in this process with workers=0. Interrupted, the same command goes on from the newest checkpoint; finished, it
answers with what is there. The new version is entered into the registry and, if it passes the gate, served from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cluster.errors import UserError
from policy.checkpoint import load_policy, policy_version
from policy.tiny_musiclm import TinyMusicLM
from rewards.checkpoint import TRAINING_FILE, write_training
from rewards.preference import Preference, PreferenceFacts, save_preference
from rewards.preference_measure import measure, normalisation_of, pooled_features, temperature_of
from rewards.preference_pairs import PairSet
from rewards.preference_settings import PreferenceSettings, check_preference_settings
from rewards.preference_task import Task, fresh_net, make_task, make_trainer, part_of, read_task_pairs
from rewards.training import Progress

TRAINING_FOLDER = "training"  # in the model's directory while it is being trained
_NOT_OF_THE_MODEL = (
    *("pairs", "policy", "start", "out", "registry", "gate", "margin", "parent"),
    *("workers", "threads", "gpu", "checkpoint_every"),
)


def train_preference(settings: PreferenceSettings, progress: Progress = print) -> Path:
    """Trains, calibrates, measures and writes a preference model -> its directory.

    Raises UserError before anything starts: settings that cannot work, votes or a policy that cannot be read, codes of
    another policy, too few votes, an `out` that holds another model.
    """
    check_preference_settings(settings)
    policy = load_policy(settings.policy)
    pairs = read_task_pairs(settings, policy)
    identity = _identity(settings, pairs)
    out = Path(settings.out or f"runs/preference/{identity['data']}-{identity['hash'][:6]}")
    if _already_there(out, identity):
        progress(f"preference: {out} is trained already")
        return out
    task = make_task(settings, policy, pairs)
    progress(f"preference: {len(task.train)} votes to learn from, {len(task.valid)} to stop by")
    started = time.monotonic()
    state = _trained(task, out / TRAINING_FOLDER / identity["hash"], progress)
    identity["training"] = _course(task, state, time.monotonic() - started)
    _write(out, task, policy, pairs, state, identity, progress)
    shutil.rmtree(out / TRAINING_FOLDER, ignore_errors=True)
    return out


def train_here(task: Task, folder: Path, progress: Progress) -> dict[str, Any]:
    """Trains in this process, checkpoints in `folder` -> the trainer's last state."""
    path = folder / "state.pt"
    trainer = make_trainer(task, restored=path.is_file())
    if path.is_file():
        trainer.restore(torch.load(path, weights_only=True))
        progress(f"preference: going on from step {trainer.step}")
    folder.mkdir(parents=True, exist_ok=True)
    while not trainer.finished:
        for line in trainer.advance(trainer.step + task.settings.checkpoint_every):
            progress(line)
        temporary = path.with_suffix(".tmp")
        torch.save(trainer.state(), temporary)
        temporary.replace(path)
    return trainer.state()


def read_training(directory: str | Path) -> dict[str, Any]:
    """training.json of a trained model. Raises UserError where it is missing."""
    path = Path(directory) / TRAINING_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}), allowed a trained model's") from None


def _trained(task: Task, folder: Path, progress: Progress) -> dict[str, Any]:
    if task.settings.workers == 0:
        torch.set_num_threads(task.settings.threads)
        return train_here(task, folder, progress)
    from rewards.preference_workers import train_on_workers  # here: it imports Ray

    return train_on_workers(task, folder, progress)


def _identity(settings: PreferenceSettings, pairs: PairSet) -> dict[str, Any]:
    """What makes two trainings the same one."""
    chosen = {name: value for name, value in asdict(settings).items() if name not in _NOT_OF_THE_MODEL}
    facts = {
        "data": pairs.data_hash,
        "votes": len(pairs),
        "policy": policy_version(settings.policy),
        "settings": chosen,
    }
    if settings.start:
        facts["start"] = Preference.load(settings.start).version
    return {**facts, "hash": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}


def _already_there(out: Path, identity: dict[str, Any]) -> bool:
    if not (out / TRAINING_FILE).is_file():
        return False
    if read_training(out).get("hash") != identity["hash"]:
        raise UserError(
            f"out: got {str(out)!r}, which holds a model of other votes or settings, allowed an empty folder"
        )
    return True


def _course(task: Task, state: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "votes_train": len(task.train),
        "votes_valid": len(task.valid),
        "steps": state["step"],
        "best_step": state["history"][state["best_step"]]["step"],
        "valid_loss": state["best_loss"],
        "seconds": round(seconds, 1),
        "history": state["history"],
    }


def _write(
    out: Path,
    task: Task,
    policy: TinyMusicLM,
    pairs: PairSet,
    state: dict[str, Any],
    identity: dict[str, Any],
    progress: Progress,
) -> None:
    """The best weights; then, on these weights as they are stored, temperature, normalisation, figures."""
    settings = task.settings
    net = fresh_net(settings, policy)
    net.load_state_dict(state["best"])
    window = task.crop_frames or max(int(pairs.frames_a.max()), int(pairs.frames_b.max()))
    facts = PreferenceFacts(policy.config, window)
    save_preference(out, net, facts)
    progress("preference: measuring on held-out votes")
    valid = part_of(pairs, settings, "valid")
    facts = dataclasses.replace(facts, temperature=temperature_of(Preference.load(out), valid))
    save_preference(out, net, facts)
    model = Preference.load(out)
    net.set_axes(torch.from_numpy(pooled_features(model, valid)))
    shift, scale = normalisation_of(model, valid)
    save_preference(out, net, facts, shift=shift, scale=scale)
    model = Preference.load(out)
    figures = measure(model, part_of(pairs, settings, "held_out"))
    write_training(out, {"version": model.version, **identity, "figures": figures})  # last: with it, it is whole
    share, ece = figures["accuracy"], figures["calibration"]["ece"]
    progress(
        f"preference: version {model.version}, accuracy on {share['n']} held-out votes {share['value']:.3f} "
        f"[{share['low']:.3f}, {share['high']:.3f}], calibration error {ece:.3f}"
    )
