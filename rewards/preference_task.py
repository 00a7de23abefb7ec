"""A training of the preference model as something that can be handed to a worker."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError
from policy.checkpoint import load_policy
from policy.tiny_musiclm import TinyMusicLM
from rewards.preference import Preference
from rewards.preference_head import fit_head
from rewards.preference_net import PreferenceNet, PreferenceNetConfig
from rewards.preference_pairs import PairSet, read_pairs
from rewards.preference_settings import PreferenceSettings
from rewards.preference_split import Part, half_of, split_of
from rewards.preference_training import PreferenceTrainer, Votes, start_from_shares, votes_of

FEWEST_VOTES = 50  # decided ones to learn from; fewer say nothing


@dataclass(frozen=True)
class Task:
    """What every worker needs: the same network from the same weights, and the votes."""

    settings: PreferenceSettings
    policy: str  # directory, absolute
    train: Votes
    valid: Votes
    crop_frames: int  # 0: whole clips


def read_task_pairs(settings: PreferenceSettings, policy: TinyMusicLM) -> PairSet:
    """The votes that `settings` name, of the listeners that they name, on clips of this policy's kind.

    Raises UserError where there are none, or the clips are of another kind.
    """
    pairs = read_pairs([path.strip() for path in settings.pairs.split(",")])
    rows = half_of(pairs, settings.half)
    if settings.group:
        rows &= pairs.groups == settings.group
    if not rows.any():
        known = ", ".join(sorted({str(group) for group in pairs.groups if group})) or "none"
        raise UserError(f"group: got {settings.group!r} without a vote, allowed a group of the votes ({known})")
    pairs = pairs.take(rows)
    _check_codes(pairs, policy)
    return pairs


def make_task(settings: PreferenceSettings, policy: TinyMusicLM, pairs: PairSet) -> Task:
    """Raises UserError for too few votes."""
    net = fresh_net(settings, policy)
    train, valid = (votes_of(part_of(pairs, settings, part), net, settings) for part in ("train", "valid"))
    decided = int((train.choices <= 1).sum())
    if decided < FEWEST_VOTES or not len(valid):
        raise UserError(
            f"pairs: got {decided} decided votes to learn from and {len(valid)} to stop by, allowed at least "
            f"{FEWEST_VOTES} and 1 (beside the held-out ones)"
        )
    crop_frames = round(settings.crop_s * policy.frame_rate_hz)
    settings = dataclasses.replace(settings, start=str(Path(settings.start).absolute()) if settings.start else "")
    return Task(settings, str(Path(settings.policy).absolute()), train, valid, crop_frames)


def part_of(pairs: PairSet, settings: PreferenceSettings, part: Part) -> PairSet:
    """The votes of one part."""
    return pairs.take(split_of(pairs, part, settings.split_by, settings.held_out, settings.valid))


def fresh_net(settings: PreferenceSettings, policy: TinyMusicLM) -> PreferenceNet:
    """The network that the training starts from. Raises UserError for a `start` of another shape."""
    torch.manual_seed(settings.seed)
    config = PreferenceNetConfig(settings.pooling, settings.hidden, settings.dropout, settings.text)
    net = PreferenceNet.from_policy(policy, config, settings.scratch)
    if settings.start:
        _go_on_from(settings.start, net)
    return net


def make_trainer(task: Task, device: str = "cpu", restored: bool = False, **parallel: Any) -> PreferenceTrainer:
    """A trainer at step 0. restored: a later state follows. `parallel`: rank, workers, wrap."""
    settings = task.settings
    net = fresh_net(settings, load_policy(task.policy)).to(device)
    start_from_shares(net, task.train.choices)
    if settings.head_first and not settings.start and not restored:
        fit_head(net, task.train, settings.ties, task.crop_frames, settings.seed)
    return PreferenceTrainer(net, task.train, task.valid, task.settings, task.crop_frames, **parallel)


def _go_on_from(directory: str, net: PreferenceNet) -> None:
    """The weights of an earlier version into `net`."""
    earlier = Preference.load(directory).net
    try:
        net.load_state_dict(earlier.state_dict())
    except RuntimeError:
        raise UserError(
            f"start: got {directory}, a model of other shapes ({earlier.config}), allowed one of the same policy and "
            f"network ({net.config})"
        ) from None


def _check_codes(pairs: PairSet, policy: TinyMusicLM) -> None:
    sizes = np.array([stream.size for stream in policy.streams])
    if pairs.codes_a.shape[1] != len(sizes):
        raise UserError(f"pairs: got clips of {pairs.codes_a.shape[1]} streams, allowed the policy's {len(sizes)}")
    for codes in (pairs.codes_a, pairs.codes_b):
        if (codes >= sizes[:, None]).any():
            raise UserError(f"pairs: got code {int(codes.max())}, allowed codes below the policy's {sizes.tolist()}")
    longest = max(int(pairs.frames_a.max()), int(pairs.frames_b.max()))
    if longest > policy.config.max_frames:
        raise UserError(
            f"pairs: got a clip of {longest} frames, allowed at most the policy's {policy.config.max_frames}"
        )
