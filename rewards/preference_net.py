"""Caption and audio tokens to one number: how much listeners would like this clip for this caption.

The temporal trunk of the policy reads text and frames; its states are pooled over the frames and a small head gives the
score. One frame more is fed than there are, because the trunk's state t knows the frames before t only: so the states
1..T know 1..T frames, and the last knows the whole clip.
Source: MusicRL section 3.3 (caption and tokens to a scalar, started from the policy's checkpoint); pooling and head:
our choice. Mean and deviation over time: statistics pooling, Snyder et al. 2018 (x-vectors), section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from policy.text import TextTokenizer
from policy.tiny_musiclm import Block, TemporalTrunk, TinyMusicLM, TinyMusicLMConfig

POOLINGS = ("last", "mean", "attention", "statistics")
AXES = 32  # with the few hundred votes of one listener, more would only feed the penalty
LEAST_SPREAD = 1e-3  # of a feature or an axis, absolute and beside the first's: what is smaller is rounding
LEAST_VARIANCE = 1e-6  # keeps the root differentiable where nothing changes over time


@dataclass(frozen=True)
class PreferenceNetConfig:
    pooling: str = "statistics"
    hidden: int = 128  # of the head; 0: linear
    dropout: float = 0.1
    text: bool = True  # False: every caption is read as the null condition


class PreferenceNet(nn.Module):
    """codes [B, K, T], frames [B], text [B, L] -> scores [B].

    `side` (what being heard first is worth) and `log_nu` (how often clips tie) belong to listeners, not to clips:
    learnt beside the score, never part of it. The axes are the directions in which clips' features differ most.
    """

    axes: Tensor
    axes_mean: Tensor
    features_mean: Tensor
    features_spread: Tensor

    def __init__(self, trunk: TemporalTrunk, tokenizer: TextTokenizer, config: PreferenceNetConfig) -> None:
        super().__init__()
        self.trunk, self.tokenizer, self.config = trunk, tokenizer, config
        width = trunk.embed_start.shape[0]
        self.query = nn.Parameter(torch.zeros(width)) if config.pooling == "attention" else None
        width *= 2 if config.pooling == "statistics" else 1
        self.head = score_head(width, config)
        self.side = nn.Parameter(torch.zeros(()))
        self.log_nu = nn.Parameter(torch.tensor(-1.0))
        self.register_buffer("features_mean", torch.zeros(width))
        self.register_buffer("features_spread", torch.ones(width))
        self.register_buffer("axes_mean", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, min(AXES, width)))
        for module in trunk.modules():
            if isinstance(module, Block):
                module.dropout = config.dropout

    @classmethod
    def from_policy(cls, policy: TinyMusicLM, config: PreferenceNetConfig, scratch: bool = False) -> PreferenceNet:
        """On a copy of the policy's trunk; with `scratch` the same network from random weights (torch's generator)."""
        source = TinyMusicLM(policy.config, policy.tokenizer) if scratch else policy
        net = cls.empty(policy.config, policy.tokenizer, config)
        net.trunk.load_state_dict(source.trunk.state_dict())
        return net

    @classmethod
    def empty(cls, shapes: TinyMusicLMConfig, tokenizer: TextTokenizer, config: PreferenceNetConfig) -> PreferenceNet:
        """The policy's shapes (and room for one frame more), for weights that are about to be loaded."""
        longer = replace(shapes, max_frames=shapes.max_frames + 1)
        return cls(TemporalTrunk(longer, tokenizer.size, tokenizer.length), tokenizer, config)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> [B, L] int64; the null condition where the model reads no text."""
        return self.tokenizer(list(prompts) if self.config.text else [""] * len(prompts))

    def states(self, codes: Tensor, text: Tensor) -> Tensor:
        """codes [B, K, T], text [B, L] -> [B, T, D]; state t knows the text and the frames up to t."""
        return self.trunk(torch.cat([codes, codes[..., -1:]], dim=2), text)[:, 1:]

    def features(self, codes: Tensor, frames: Tensor, text: Tensor) -> Tensor:
        """-> [B, D]: the pooled states, [B, 2 D] with pooling="statistics": their mean and their standard deviation.

        Frames past a clip's own are not seen: the trunk is causal.
        """
        states = self.states(codes, text)
        if self.config.pooling == "last":
            return states[torch.arange(len(states), device=states.device), frames - 1]
        heard = torch.arange(states.shape[1], device=states.device) < frames[:, None]  # [B, T]
        if self.query is None:
            mean = (states * heard[..., None]).sum(1) / frames[:, None]
            if self.config.pooling == "mean":
                return mean
            squares = ((states - mean[:, None]) ** 2 * heard[..., None]).sum(1) / frames[:, None]
            return torch.cat([mean, (squares + LEAST_VARIANCE).sqrt()], dim=1)
        focus = (states @ self.query).masked_fill(~heard, -torch.inf).softmax(1)
        return (states * focus[..., None]).sum(1)

    def forward(self, codes: Tensor, frames: Tensor, text: Tensor) -> Tensor:
        return self.score_features(self.features(codes, frames, text))

    def score_features(self, features: Tensor) -> Tensor:
        """[..., D] of `features` -> [...]."""
        return self.head((features - self.features_mean) / self.features_spread).squeeze(-1)

    def read(self, codes: Tensor, frames: Tensor, text: Tensor) -> Tensor:
        """-> [B, 1 + R]: the score, then the features along the axes, of unit spread over clips."""
        features = self.features(codes, frames, text)
        return torch.cat([self.score_features(features)[:, None], (features - self.axes_mean) @ self.axes], dim=1)

    def scale_features(self, features: Tensor) -> None:
        """Every feature of many clips [N, D] reaches the head with mean 0 and deviation 1."""
        self.features_mean.copy_(features.mean(0))
        self.features_spread.copy_(features.std(0, correction=0).clamp_min(LEAST_SPREAD))

    def set_axes(self, features: Tensor) -> None:
        """Principal axes of many clips' features [N, D], of unit spread each; with next to none, left at 0."""
        mean = features.mean(0)
        _, singular, directions = torch.linalg.svd(features - mean, full_matrices=False)
        spread = singular / len(features) ** 0.5
        count = int((spread[: self.axes.shape[1]] > LEAST_SPREAD * max(1.0, float(spread[0]))).sum())
        self.axes_mean.copy_(mean)
        self.axes.zero_()
        self.axes[:, :count] = directions[:count].T / spread[:count]


def score_head(width: int, config: PreferenceNetConfig) -> nn.Sequential:
    """[B, D] -> [B, 1]; starts at zero, so that every pair starts as even."""
    last = nn.Linear(config.hidden or width, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    drop = nn.Dropout(config.dropout)
    return (
        nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), drop, last) if config.hidden else nn.Sequential(last)
    )


def windowed(codes: Tensor, window_frames: int) -> list[Tensor]:
    """The parts of clips [B, K, T] that are scored: all of a clip no longer than the window, else its first and last.

    Source: MusicRL section 3.3 (a 30 s clip is scored by the mean over its first and last 20 s).
    """
    if codes.shape[2] <= window_frames:
        return [codes]
    return [codes[..., :window_frames], codes[..., -window_frames:]]
