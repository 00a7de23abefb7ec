"""The three networks of a learner: the policy, its KL anchor, and the value network, and what of them learns.

All weights learn: three networks of their own. Adapters learn (learner.lora_rank): where the anchor is what the policy
starts from, the three share one set of frozen weights, and policy and value network have adapters of their own. With
learner.value_trunk=policy there are two, and a value head on the states of the policy.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from configs.schema import LearnerConfig
from learner.value import ValueHead, ValueNetwork
from policy.lora import adapt

_VALUE_SEED = 1  # of its adapters' start; the policy's is 0


@dataclass(frozen=True)
class Networks:
    """policy: learns; reference: frozen; value: learns, None without a value baseline."""

    policy: Any
    reference: Any
    value: ValueNetwork | ValueHead | None


def build_networks(policy: Any, reference: Any, config: LearnerConfig, shared: bool = True) -> Networks:
    """policy, reference: loaded networks, the same object where the anchor is what the policy starts from.

    shared: adapted networks may share frozen weights; ranks that spread each network need them apart.
    Raises ValueError where nothing is left to learn.
    """
    again = sharing_weights if shared and config.lora_rank else copy.deepcopy
    anchor = again(policy) if reference is policy else reference
    value = _value_of(policy, config, again) if config.baseline == "value" else None
    anchor.requires_grad_(False)
    if config.lora_rank:
        adapt(policy, config.lora_rank, config.lora_alpha, 0)
    else:
        freeze(policy, config.freeze)
    return Networks(policy, anchor, value)


def _value_of(policy: Any, config: LearnerConfig, again: Callable[[Any], Any]) -> ValueNetwork | ValueHead:
    """again: makes a second network of the policy."""
    if config.value_trunk == "policy":
        return ValueHead.on_policy(policy)
    if not config.lora_rank:
        return ValueNetwork.from_policy(policy)
    value = ValueNetwork.from_policy(again(policy), copied=False)
    adapt(value.trunk, config.lora_rank, config.lora_alpha, _VALUE_SEED)
    return value


def sharing_weights(network: Any) -> Any:
    """A second network of the same weights: the same tensors, in modules of its own."""
    return copy.deepcopy(network, {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())})


def freeze(policy: nn.Module, patterns: list[str]) -> None:
    """Leaves parameters whose name matches one of the patterns as they are."""
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
