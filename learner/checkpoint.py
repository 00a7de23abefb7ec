"""Checkpoints of a run: one directory a step, complete or not there at all.

    RUN/checkpoints/step_50/
        policy/                  exported by policy.checkpoint; usable as policy.checkpoint=... of another run
        adapters.safetensors     with learner.lora_rank: the adapters, which policy/ has merged
        value.safetensors        the value network (absent without one), with learner.lora_rank what learns of it
        optimisers.safetensors   Adam's moments, the random state
          or, of sharded ranks   value-00000-of-00002.safetensors, …: see learner.parts
        learner.json             version, digest of the reference
        controller_state.json    what the controller handed in: cursors, counters, versions
        config.json              the resolved configuration
        manifest.json            size and SHA-256 of every file above

All files are written and fsynced under step_N.tmp, the manifest last; one rename makes the checkpoint. A kill at any
moment leaves either the whole checkpoint or a .tmp directory that nobody reads. Tensors are safetensors in their own
precision, so a round trip is exact; nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from cluster.errors import RunFailed, UserError
from cluster.storage import sync
from learner.learner import Learner
from learner.optimiser import Optimiser
from learner.parts import Parts, save_part
from policy.checkpoint import load_policy, save_policy
from policy.lora import trained_state

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_FORMAT = 1
_NAME = re.compile(r"step_(\d+)$")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_SEPARATOR = "|"  # between the parts of an optimiser tensor's name; parameter names contain dots


def save_checkpoint(
    run_dir: str | Path, step: int, learner: Learner, controller_state: dict[str, Any], config: Any
) -> Path:
    """Writes RUN/checkpoints/step_N, durable and complete when this returns. Every rank of the learner calls this and
    writes its part; the leading one, whose arguments count, does the rest.

    controller_state: JSON values. config: a dataclass or a dictionary of JSON values, kept for the reader. An existing
    checkpoint of the same step is replaced. Raises OSError when the disk refuses (the .tmp directory is then left to be
    pruned).
    """
    target, ranks = checkpoint_path(run_dir, step), learner.ranks
    temporary = target.with_suffix(".tmp")
    if ranks.leads:
        _remove(temporary)
        temporary.mkdir(parents=True)
    ranks.meet()
    with _as_os_error(temporary):
        _write_learner(temporary, learner)
    ranks.meet()
    if not ranks.leads:
        return target
    _write_json(temporary / "controller_state.json", controller_state)
    _write_json(temporary / "config.json", config if isinstance(config, dict) else dataclasses.asdict(config))
    _write_manifest(temporary, step)
    _publish(temporary, target)
    return target


def load_checkpoint(path: str | Path, learner: Learner) -> dict[str, Any]:
    """Restores `learner` exactly -> the controller's state. Every rank of the learner calls this, whatever number of
    ranks wrote the checkpoint.

    Raises UserError when the checkpoint is damaged, RunFailed when it is of another model or reference.
    """
    path = Path(path)
    problem = damage(path) if learner.ranks.leads else None  # it reads everything: once is enough
    if problem:
        raise UserError(f"run.resume: got {path}: {problem}; allowed: a complete checkpoint")
    try:
        learner.restore(_read_learner(path, learner))
    except RunFailed as error:
        raise type(error)(f"{error} ({path})") from error
    return json.loads((path / "controller_state.json").read_text())


def latest_complete(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run; damaged ones are passed over with a warning. None without any."""
    for path in reversed(_checkpoints(run_dir)):
        problem = damage(path)
        if problem is None:
            return path
        logger.warning("checkpoint %s passed over: %s", path, problem)
    return None


def require_complete(run_dir: str | Path) -> Path:
    """`latest_complete`, or UserError when there is none to resume from."""
    path = latest_complete(run_dir)
    if path is None:
        found = f"{len(_checkpoints(run_dir))} damaged" if _checkpoints(run_dir) else "no"
        raise UserError(
            f"run.resume: got {run_dir} with {found} checkpoints, allowed: a run folder with a complete one"
        )
    return path


def prune(run_dir: str | Path, keep: int, needed: Collection[int] = ()) -> list[Path]:
    """Removes all but the newest `keep` checkpoints, step 0 and the steps `needed`, and what interrupted saves left.

    -> what was removed. The newest complete checkpoint is never removed.
    """
    paths = _checkpoints(run_dir)
    newest = latest_complete(run_dir)
    kept = {*paths[-max(1, keep) :], newest}
    stale = [path for path in paths if path not in kept and step_of(path) not in {0, *needed}]
    stale += sorted((Path(run_dir) / "checkpoints").glob("step_*.tmp"))
    for path in stale:
        _remove(path)
    return stale


def checkpoint_path(run_dir: str | Path, step: int) -> Path:
    return Path(run_dir) / "checkpoints" / f"step_{step}"


def step_of(path: str | Path) -> int:
    """The step in a checkpoint's name. Raises UserError for any other name."""
    match = _NAME.search(str(path))
    if not match:
        raise UserError(f"checkpoint: got {path}, allowed: a directory named step_N")
    return int(match.group(1))


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when every file is there, whole and unchanged."""
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            return f"format {manifest['format']}, this version reads {_FORMAT}"
        for name, entry in manifest["files"].items():
            file = Path(path) / name
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes of {entry['bytes']}"
            if _sha256(file) != entry["sha256"]:
                return f"{name} has changed since it was written"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable"
    return None


# ---- the learner's part -------------------------------------------------------------------------------------------


def _write_learner(directory: Path, learner: Learner) -> None:
    state, ranks, policy = learner.state(), learner.ranks, learner.whole_policy()
    tensors = _flatten("policy", state["policy_optimiser"])
    if "value" in state:
        tensors |= _flatten("value", state["value_optimiser"])
    if ranks.leads or ranks.part:
        if learner.config.lora_rank:
            save_part(state["policy"], directory / f"adapters{ranks.part}.safetensors")
        if "value" in state:
            save_part(state["value"], directory / f"value{ranks.part}.safetensors")
        save_part({"rng": state["rng"], **tensors}, directory / f"optimisers{ranks.part}.safetensors")
    if policy is not None:
        earlier = [path / "policy" for path in _checkpoints(directory.parents[1])]
        save_policy(policy, directory / "policy", dtype=torch.float32, beside=earlier)
        _write_json(directory / "learner.json", {"version": state["version"], "reference": state["reference"]})


def _read_learner(path: Path, learner: Learner) -> dict[str, Any]:
    """What `learner.restore` takes: of what is spread over ranks, this rank's part."""
    try:
        state: dict[str, Any] = json.loads((path / "learner.json").read_text())
        if Parts.exist(path, "adapters"):
            adapters = trained_state(learner.policy)
            with Parts(path, "adapters") as stored:
                state["policy"] = {name: stored.read(name, adapters.get(name)) for name in stored.names}
        else:
            state["policy"] = load_policy(path / "policy").state_dict()
        with Parts(path, "optimisers") as stored:
            state["rng"] = stored.read("rng")
            state["policy_optimiser"] = _moments(stored, "policy", learner.policy_optimiser)
            if learner.value_optimiser is not None:
                state["value_optimiser"] = _moments(stored, "value", learner.value_optimiser)
        if Parts.exist(path, "value"):
            here = trained_state(learner.value) if learner.value is not None else {}
            with Parts(path, "value") as stored:
                state["value"] = {name: stored.read(name, here.get(name)) for name in stored.names}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"run.resume: got {path}: {error}; allowed: a checkpoint that this version wrote") from error
    return state


def _flatten(network: str, state: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """{parameter: {moment: tensor}} -> {"network|parameter|moment": tensor}."""
    return {
        _SEPARATOR.join((network, name, key)): tensor
        for name, moments in state.items()
        for key, tensor in moments.items()
    }


def _moments(stored: Parts, network: str, optimiser: Optimiser) -> dict[str, dict[str, Tensor]]:
    """Inverse of `_flatten` for one network."""
    state: dict[str, dict[str, Tensor]] = {}
    for full_name in stored.names:
        owner, _, rest = full_name.partition(_SEPARATOR)
        if owner == network:
            name, key = rest.split(_SEPARATOR)
            state.setdefault(name, {})[key] = stored.read(full_name, optimiser.named.get(name))
    return state


@contextmanager
def _as_os_error(directory: Path) -> Iterator[None]:
    """safetensors has an exception of its own for what the disk refuses; here it becomes the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(directory)) from error


# ---- files --------------------------------------------------------------------------------------------------------


def _checkpoints(run_dir: str | Path) -> list[Path]:
    """Directories named step_N, oldest first."""
    folder = Path(run_dir) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.search(path.name) and path.is_dir()), key=step_of)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _write_manifest(directory: Path, step: int) -> None:
    """Lists every file, after making each durable: what the manifest names is on the disk before the manifest is."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for folder in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        sync(folder)
    for file in files:
        sync(file)
    entries = {
        file.relative_to(directory).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in files
    }
    _write_json(directory / MANIFEST, {"format": _FORMAT, "step": step, "files": entries})
    sync(directory / MANIFEST)
    sync(directory)


def _publish(temporary: Path, target: Path) -> None:
    """Gives the finished directory its name. An older one of the same name steps aside first."""
    aside = target.with_suffix(".old.tmp")
    _remove(aside)
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    sync(target.parent)
    _remove(aside)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
