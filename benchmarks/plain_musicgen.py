"""A policy gradient step as one would write it: plain autograd over transformers' MusicGen, on a Learner's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.records import TrainingBatch
from codec.torchaudio_guard import import_torchaudio
from learner import objective
from learner.learner import Learner
from policy.musicgen.t5 import PAD
from policy.musicgen.weights import cut, stored_tensors


class PlainStep:
    """transformers' policy and anchor, whose parameters are views of a learner's, with an Adam of their own whose
    moments are views of the learner's too, where it has some."""

    def __init__(self, learner: Learner) -> None:
        self.config, self.sampling = learner.config, learner.sampling
        self.shapes, self.prompts = learner.policy.shapes, learner.policy.prompts
        self.model, self.anchor = _views_of(learner.policy), _views_of(learner.reference).requires_grad_(False)
        self.frozen = {name for name, tensor in learner.policy.named_parameters() if not tensor.requires_grad}
        learns = self._learning(learner)
        self.parameters = list(learns)
        self.adam = torch.optim.Adam(self.parameters, lr=learner.config.learning_rate, fused=True)
        for parameter, moments in learns.items():
            if moments:
                self.adam.state[parameter] = moments

    def _learning(self, learner: Learner) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Parameters that learn -> their moments."""
        theirs = dict(self.model.named_parameters())
        for parameter in theirs.values():
            parameter.requires_grad_(False)
        found: dict[nn.Parameter, dict[str, Tensor]] = {}
        for name, parameter in learner.policy_optimiser.named.items():
            moments = learner.policy_optimiser.adam.state.get(parameter, {})
            for stored, _ in cut(name, parameter, self.shapes.codebooks):
                found[theirs[stored].requires_grad_()] = {"step": moments["step"].clone()} if moments else {}
            for key in ("exp_avg", "exp_avg_sq"):
                for stored, view in cut(name, moments[key], self.shapes.codebooks) if moments else ():
                    found[theirs[stored]][key] = view
        return found

    def step(self, batch: TrainingBatch) -> dict[str, float]:
        """One update -> loss, gradient norm, KL."""
        self.model.zero_grad(set_to_none=True)
        return {**self.gradient(batch), "grad_norm": self.update()}

    def update(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.adam.step()
        return norm.item()

    def gradient(self, batch: TrainingBatch) -> dict[str, float]:
        """Adds the gradient of the batch, in one pass -> loss, KL."""
        codes, text = torch.from_numpy(batch.codes.astype(np.int64)), self._text(batch)
        log_mu, rewards = torch.from_numpy(batch.log_probs), torch.from_numpy(batch.rewards)
        log_pi = torch.log_softmax(self._logits(self.model, codes, text) / self.sampling.temperature, -1)
        with torch.no_grad():
            log_ref = torch.log_softmax(self._logits(self.anchor, codes, text) / self.sampling.temperature, -1)
        chosen = log_pi.gather(-1, codes[..., None])[..., 0]
        kl = (log_pi.exp() * (log_pi - log_ref)).sum(-1)
        weights = objective.importance_weights(chosen, log_mu, self.config.importance_clip)
        advantage = (rewards - rewards.mean())[:, None].expand(-1, codes.shape[2])
        policy_term = objective.policy_loss(chosen, weights, advantage, codes.numel())
        loss = objective.combine(policy_term, objective.kl_loss(kl, codes.numel()), self.config.alpha)
        loss.backward()
        return {"policy_loss": loss.item(), "kl": kl.mean().item()}

    def _text(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """T5's states [B, L, W], worked out before, and the mask of the words [B, L]."""
        tokens = self.prompts.tokens(batch.prompts)
        return self.prompts.states(tokens), (tokens != PAD).long()

    def _logits(self, model: Any, codes: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """codes [B, K, T] -> guided logits [B, K, T, V]."""
        states, mask = text
        shown = delayed(codes, self.shapes.delays, self.shapes.entries)
        rows, guided = len(codes), self.sampling.guidance_scale != 1.0
        if guided:  # as transformers itself samples: the null condition is zeros, masked
            states, mask = torch.cat([states, torch.zeros_like(states)]), torch.cat([mask, torch.zeros_like(mask)])
            shown = torch.cat([shown, shown])
        found = model(
            encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=shown.flatten(0, 1), use_cache=False
        )
        logits = found.logits.unflatten(0, (-1, codes.shape[1]))  # [B, K, S, V]
        frames, places = codes.shape[2], enumerate(self.shapes.delays)
        cells = torch.stack([logits[:, k, late : late + frames] for k, late in places], 1)
        if not guided:
            return cells
        return cells[rows:] + self.sampling.guidance_scale * (cells[:rows] - cells[rows:])


def delayed(codes: Tensor, delays: tuple[int, ...], special: int) -> Tensor:
    """codes [B, K, T] -> what the steps show [B, K, T + max(delays)], the last cells, which nothing reads, left out."""
    rows, books, frames = codes.shape
    shown = torch.full((rows, books, frames + max(delays)), special, dtype=torch.int64)
    for book, late in enumerate(delays):
        stop = min(frames + max(delays), 1 + late + frames)
        shown[:, book, 1 + late : stop] = codes[:, book, : stop - 1 - late]
    return shown


def _views_of(policy: Any) -> Any:
    """transformers' model whose decoder's parameters are the policy's own memory; its other parts have none."""
    import_torchaudio()
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.MusicgenConfig.from_pretrained(policy.source.path)
    with torch.device("meta"):
        model = transformers.MusicgenForConditionalGeneration(config)
    views = {name: tensor.detach() for name, tensor in stored_tensors(policy)}
    unknown = model.load_state_dict(views, strict=False, assign=True).unexpected_keys
    assert not unknown, unknown
    embedding = model.decoder.model.decoder.embed_positions
    table = embedding.get_embedding(embedding.num_positions, embedding.embedding_dim)
    embedding.weights = nn.Buffer(table, persistent=False)
    return model.eval()
