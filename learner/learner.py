"""The learner: owns the policy being trained, its KL anchor, the value network and their optimisers.

One `step` consumes one TrainingBatch, in micro-batches that add up to the same update, and makes one new policy
version. Where several ranks share the updates (learner.ranks), each has a Learner and calls the same methods in the
same order; losses are divided by the whole batch's counts, so that shares change nothing.
A plain class that knows nothing of Ray; the maths is in learner.objective.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from actors.records import TrainingBatch
from cluster.errors import RunFailed
from configs.schema import LearnerConfig
from learner import objective
from learner.measures import Measures, measure, measure_in_parts
from learner.networks import build_networks
from learner.optimiser import Optimiser, scheduled_rate
from learner.outcome import Outcome, batch_metrics, cell_metrics, kl_by_stream, nothing, over_ranks, sum_of
from learner.ranks import Alone, Ranks, like, recompute_blocks, whole
from learner.value import ValueHead
from policy.log_probs import gather, log_distribution
from policy.lora import adapters_of, changed_names, merged_state, plain_state, trained_state
from policy.port import PolicyOfStates, Readout, SamplingSettings


class NonFiniteLoss(RunFailed):
    """A loss, gradient or input of a step is NaN or infinite; the update was not made."""


@dataclass(frozen=True)
class _Inputs:
    """A batch, or a micro-batch of it, as tensors on the learner's device."""

    codes: Tensor  # [B, K, T] int64
    text: Tensor  # [B, L] int64
    log_mu: Tensor  # [B, K, T]
    rewards: Tensor  # [B]
    baseline: Tensor  # [B]; unused when the baseline is the value network

    def rows(self, start: int, stop: int) -> _Inputs:
        return _Inputs(**{name: tensor[start:stop] for name, tensor in vars(self).items()})


class _Baseline(NamedTuple):
    """values [B, T]; the value network's loss; and a term whose gradient is what of that loss's the policy takes."""

    values: Tensor
    loss: float = 0.0
    pull: Tensor | float = 0.0


class Learner:
    """KL-regularised REINFORCE with a value baseline (MusicRL section 3.2).

    policy, reference: of one set of streams; the reference is frozen.
    sampling: the settings that sampled the batches: log-probabilities are those of that distribution.
    total_steps: steps of the whole run, for the learning rate's decay.
    ranks: those that share the updates; they spread the networks, which must be whole here.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any,
        config: LearnerConfig,
        sampling: SamplingSettings,
        total_steps: int,
        ranks: Ranks | None = None,
    ) -> None:
        self.config = config
        self.ranks = ranks or Alone()
        self.sampling = sampling
        self.total_steps = total_steps
        self.version = 0
        self.policy = policy.eval()  # no dropout: the log-probabilities must be the sampler's
        networks = build_networks(policy, reference, config, shared=not self.ranks.spreads)
        self.reference = networks.reference.eval()
        self.value = networks.value.eval() if networks.value is not None else None
        self.reference_digest = tensors_digest(self.reference.state_dict())
        self._anchor_readout = self._own_readout() if isinstance(policy, PolicyOfStates) else None
        self._export = self._spread()
        self.policy_optimiser = self._optimiser(self.policy)
        self.value_optimiser = self._optimiser(self.value) if self.value is not None else None
        self.device = next(policy.parameters()).device

    def _optimiser(self, network: nn.Module) -> Optimiser:
        return Optimiser(network, self.config.grad_clip, self.config.optimizer_states)

    def _own_readout(self) -> Readout:
        """The anchor's readout, to be used outside of its passes; before the ranks spread it."""
        if not self.ranks.spreads:
            return self.reference.readout
        dtype = torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32
        return self.reference.readout.copied("cuda" if self.config.gpus else "cpu", dtype)

    def _spread(self) -> Any:
        """Hands the networks to the ranks. -> where the leading rank puts the policy's whole weights together."""
        export = copy.deepcopy(self.policy).cpu() if self.ranks.leads and self.ranks.spreads else None
        for network in (self.policy, self.value):
            if network is not None and self.config.activation_checkpointing:
                recompute_blocks(network)
        for network in (self.policy, self.reference, self.value):
            if network is not None:
                self.ranks.prepare(network)
        return export

    # ---- one step -------------------------------------------------------------------------------------------------

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """One update from `batch` -> its metrics by catalogue name.

        Raises NonFiniteLoss before anything is changed when a loss or gradient is not finite, ValueError when the
        batch was sampled with other settings than the learner's.
        """
        if batch.sampling != self.sampling:
            raise ValueError(f"batch sampled with {batch.sampling}, the learner computes {self.sampling}")
        inputs = self._inputs(batch)
        self._require_finite({"rewards": inputs.rewards, "behaviour log-probabilities": inputs.log_mu})
        self._zero_gradients()
        outcome = self._accumulate(inputs)
        norms = self._clip_gradients()
        losses = outcome.losses
        self._require_finite({name: torch.tensor(number) for name, number in {**losses, **norms}.items()})
        rate = self._update()
        metrics = {**batch_metrics(batch, self.version), **losses, **norms, "learning_rate": rate}
        metrics |= cell_metrics(outcome, inputs.codes, inputs.rewards)
        metrics |= kl_by_stream(outcome, inputs.codes, self.policy.streams)
        self.version += 1
        return metrics

    def _inputs(self, batch: TrainingBatch) -> _Inputs:
        rewards = torch.from_numpy(batch.rewards.astype(np.float32))
        if self.config.baseline == "leave_one_out":
            first_use = {prompt: row for row, prompt in reversed(list(enumerate(batch.prompts)))}
            groups = torch.tensor([first_use[prompt] for prompt in batch.prompts])
            baseline = objective.leave_one_out_baseline(rewards, groups)
        else:
            baseline = objective.batch_mean_baseline(rewards)
        tensors = (
            torch.from_numpy(batch.codes.astype(np.int64)),
            self.policy.encode_text(batch.prompts),
            torch.from_numpy(batch.log_probs.astype(np.float32)),
            rewards,
            baseline,
        )
        return _Inputs(*(tensor.to(self.device) for tensor in tensors))

    def _accumulate(self, inputs: _Inputs) -> Outcome:
        """Adds the gradient of the whole batch -> its outcome, the same on every rank."""
        passes = self.ranks.passes(len(inputs.codes), self.config.micro_batch_size)
        outcomes = [
            self._backward(inputs.rows(start, stop), inputs, last=number == len(passes))
            for number, (start, stop) in enumerate(passes, 1)
        ]
        return over_ranks(sum_of(outcomes), inputs.codes, passes[0][0], self.ranks)

    def _backward(self, rows: _Inputs, batch: _Inputs, last: bool) -> Outcome:
        """Adds the gradient of one micro-batch. Sums are divided by the counts of the whole batch [B, K, T]."""
        if not len(rows.codes):  # the others are at work on theirs, and wait for this rank's part of the weights
            self._losses(batch.rows(0, 1), batch.codes, last, share=0.0)
            return nothing(batch.codes)
        return self._losses(rows, batch.codes, last)

    def _losses(self, rows: _Inputs, all_codes: Tensor, last: bool, share: float = 1.0) -> Outcome:
        """share: of the losses in the gradient; 1, or 0 for a pass that only keeps step."""
        tokens, frames = all_codes.numel(), all_codes.shape[0] * all_codes.shape[2]
        shared = isinstance(self.value, ValueHead)
        baseline = None if shared else self._own_baseline(rows, frames, last, share)  # before: less is held at once
        with torch.set_grad_enabled(self._policy_learns):
            (log_pi, kl, entropy), states = self._measures(rows, shared)
            values, value_term, pull = baseline or self._shared_baseline(rows, states, frames, last, share)
            weights = objective.importance_weights(log_pi, rows.log_mu, self.config.importance_clip)
            advantage = rows.rewards[:, None] - values.detach()
            policy_term = objective.policy_loss(log_pi, weights, advantage, tokens)
            loss = objective.combine(policy_term, objective.kl_loss(kl, tokens), self.config.alpha)
        if self._policy_learns:
            self.ranks.backward(loss * share + pull, self.policy, last)
        sums = {
            "kl": kl,
            "entropy": entropy,
            "importance_weight": weights,
            "mismatch": (log_pi.detach() - rows.log_mu).abs(),
            "clipped": weights >= self.config.importance_clip,
        }
        return Outcome(
            losses={"policy_loss": loss.item(), "value_loss": value_term},
            sums={name: cells.detach().sum(dtype=torch.float64).item() for name, cells in sums.items()},
            kl_by_stream=kl.detach().sum((0, 2), dtype=torch.float64),
            importance_weight_max=weights.max().item(),
            values=values.detach(),
        )

    def _own_baseline(self, rows: _Inputs, frames: int, last: bool, share: float) -> _Baseline:
        """What does not hang on the policy's pass; adds the value network's own gradient."""
        if self.value is None:
            return _Baseline(rows.baseline[:, None].expand(-1, rows.codes.shape[2]))
        values = self.value(rows.codes, rows.text)
        loss = objective.value_loss(values, rows.rewards, frames)
        self.ranks.backward(loss * share, self.value, last)
        return _Baseline(values, loss.item())

    def _shared_baseline(self, rows: _Inputs, states: list[Tensor], frames: int, last: bool, share: float) -> _Baseline:
        """From the policy's states [B, T, D]; adds the head's gradient."""
        assert self.value is not None
        part = self.config.value_gradient if self._policy_learns else 0.0
        with torch.enable_grad():
            read = states[0].detach().float().requires_grad_(part > 0)
            values = self.value(read)
            loss = objective.value_loss(values, rows.rewards, frames)
            self.ranks.backward(loss * share, self.value, last)
        if not part:
            return _Baseline(values, loss.item())
        assert read.grad is not None
        gradient = part * read.grad / self.ranks.size  # `backward` multiplies by the ranks, here and once more below
        return _Baseline(values, loss.item(), (states[0].float() * gradient).sum())

    def _measures(self, rows: _Inputs, shown: bool) -> tuple[Measures, list[Tensor]]:
        """[B, K, T] each: log-probability of the codes, KL to the anchor, entropy; where asked for, the policy's states
        [B, T, D]."""
        states: list[Tensor] = []
        show = states.append if shown else None
        inputs, sampling = (rows.codes, rows.text), self.sampling
        if self._anchor_readout is None:
            with torch.no_grad():
                log_ref = log_distribution(self.reference, *inputs, sampling)
            return measure(log_distribution(self.policy, *inputs, sampling, show), log_ref, rows.codes), states
        readouts, entries = (self.policy.readout, self._anchor_readout), self.policy.streams[0].size
        with torch.no_grad():
            anchor = self.reference(*inputs, read=lambda states: states, guidance_scale=sampling.guidance_scale)

        def read(states: Tensor) -> Measures:
            return measure_in_parts(readouts, (states, anchor), rows.codes, sampling, entries)

        return self.policy(*inputs, show=show, read=read, guidance_scale=sampling.guidance_scale), states

    @property
    def _policy_learns(self) -> bool:
        return self.version >= self.config.value_warmup_steps

    def _zero_gradients(self) -> None:
        self.policy.zero_grad(set_to_none=True)
        if self.value is not None:
            self.value.zero_grad(set_to_none=True)

    def _clip_gradients(self) -> dict[str, float]:
        """Clips each network's gradient by its own global norm -> the norms before clipping."""
        norms = {"grad_norm": self.policy_optimiser.clip()}
        if self.value_optimiser is not None:
            norms["value_grad_norm"] = self.value_optimiser.clip()
        return norms

    def _update(self) -> float:
        """Applies the accumulated gradients -> the policy's learning rate of this step."""
        config = self.config
        if self.value_optimiser is not None:
            self.value_optimiser.step(config.value_learning_rate)
        if not self._policy_learns:
            return 0.0
        done, total = self.version - config.value_warmup_steps, self.total_steps - config.value_warmup_steps
        rate = scheduled_rate(config.learning_rate, config.lr_schedule, config.warmup_steps, done, total)
        self.policy_optimiser.step(rate)
        return rate

    def _require_finite(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteLoss(
                    f"learner: {name} not finite in step {self.version + 1}; nothing was updated. "
                    "Resume from the last checkpoint with a lower learner.learning_rate or a higher learner.alpha"
                )

    # ---- what leaves the learner ----------------------------------------------------------------------------------

    @torch.no_grad()
    def whole_policy(self) -> Any:
        """The policy with all of its present weights, in 32 bits; to be read before the next step. Alone it is the live
        one. Else it is a copy on the leading rank's CPU, and None on the others; * every rank calls this."""
        if not self.ranks.spreads:
            return self.policy
        target = self._export.state_dict() if self._export is not None else {}
        for name, tensor in self.policy.state_dict().items():
            full = whole(tensor)  # one at a time: a rank that does not lead never holds more than one
            if name in target:
                target[name].copy_(full)
        return self._export

    def weights(self) -> dict[str, np.ndarray]:
        """The tensors of `whole_policy` by name, in a fixed order, as numpy; empty on a rank that does not lead. On a
        CPU these are views of live weights: copy them out (the object store does) before the next step."""
        policy = self.whole_policy()
        return {} if policy is None else _arrays(merged_state(policy))

    def frozen_weights(self) -> dict[str, np.ndarray]:
        """The tensors of a policy with adapters, as if it had none: what stays the same; else as `weights`."""
        policy = self.whole_policy()
        return {} if policy is None else _arrays(plain_state(policy).items())

    def adapters(self) -> dict[str, np.ndarray]:
        """What policy.lora.merge_into adds to `frozen_weights`, so that they become `weights`; else as these."""
        policy = self.whole_policy()
        return {} if policy is None else _arrays(adapters_of(policy).items())

    @property
    def trained_names(self) -> list[str]:
        """Names of the policy's tensors that a step changes."""
        return changed_names(self.policy)

    @torch.no_grad()
    def probe(self, codes: np.ndarray, text: np.ndarray) -> float:
        """Mean log-probability of a fixed sequence under the weights that `weights` gave last; whoever activated them
        must compute the same. Not a collective.

        codes [B, K, T], text [B, L] integers -> nats per token.
        """
        policy = self.policy if self._export is None else self._export
        device = next(policy.parameters()).device
        cells = torch.from_numpy(np.asarray(codes).astype(np.int64)).to(device)
        prompt = torch.from_numpy(np.asarray(text).astype(np.int64)).to(device)
        return gather(log_distribution(policy, cells, prompt, self.sampling), cells).mean().item()

    # ---- state ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a resumed learner needs to go on bit for bit. Tensors are live, and spread as the ranks hold
        them: copy or write them out before the next step."""
        state: dict[str, Any] = {
            "version": self.version,
            "policy": trained_state(self.policy),
            "policy_optimiser": self.policy_optimiser.state(),
            "rng": torch.get_rng_state(),
            "reference": self.reference_digest,
        }
        if self.value is not None and self.value_optimiser is not None:
            state["value"] = trained_state(self.value)
            state["value_optimiser"] = self.value_optimiser.state()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of `state`, for a learner built from the same configuration. Tensors may be whole, or this rank's
        part of them.

        Raises RunFailed when the state is of another policy, baseline or reference.
        """
        if state["reference"] != self.reference_digest:
            raise RunFailed("checkpoint: trained against another policy.reference than the one that the config names")
        if ("value" in state) != (self.value is not None):
            raise RunFailed(f"checkpoint: written with another learner.baseline than {self.config.baseline}")
        try:
            _fill(self.policy, state["policy"])
            self.policy_optimiser.restore(state["policy_optimiser"])
            if self.value is not None and self.value_optimiser is not None:
                _fill(self.value, state["value"])
                self.value_optimiser.restore(state["value_optimiser"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunFailed(f"checkpoint: of another model than the config's: {str(error).splitlines()[0]}") from error
        torch.set_rng_state(state["rng"])
        self.version = int(state["version"])


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes: equal for equal tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name].detach().cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _arrays(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors}


def _fill(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raises RuntimeError or ValueError where the tensors are another network's."""
    here = trained_state(network)
    if here.keys() != tensors.keys():
        raise RuntimeError(f"tensors {sorted(here.keys() ^ tensors.keys())[:3]} are on one side only")
    network.load_state_dict({name: like(here[name], tensors[name]) for name in tensors}, strict=False)
