"""Would listeners like it? The reward fitted to their choices, on the tokens that the policy samples.

score = s / temperature, so that sigmoid(score_a - score_b) is the calibrated chance that a is chosen over b. A clip
longer than what the model learnt from is scored by the mean over its first and last window.
Source: MusicRL section 3.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.errors import UserError
from policy.port import Stream
from policy.text import TextTokenizer
from policy.tiny_musiclm import TinyMusicLMConfig
from rewards.checkpoint import CONFIG_FILE, load_checkpoint, load_module, save_checkpoint
from rewards.port import ClipBatch, ClipView
from rewards.preference_net import PreferenceNet, PreferenceNetConfig, windowed

KIND = "preference"
SCORED_AT_ONCE = 64


@dataclass(frozen=True)
class PreferenceFacts:
    """What a trained network needs beside its weights."""

    shapes: TinyMusicLMConfig
    window_frames: int  # length of the clips that it learnt from
    temperature: float = 1.0


class Preference:
    """The reward model of rewards.port over a trained PreferenceNet."""

    needs: frozenset[ClipView] = frozenset({"codes"})

    def __init__(
        self,
        net: PreferenceNet,
        facts: PreferenceFacts,
        version: str,
        shift: float = 0.0,
        scale: float = 1.0,
        name: str = KIND,
    ) -> None:
        self.net, self.facts, self.version = net.eval(), facts, version
        self.shift, self.scale, self.name = shift, scale, name
        self._sizes = np.array([stream.size for stream in facts.shapes.streams])

    @classmethod
    def load(cls, directory: str | Path) -> Preference:
        """Raises UserError where the directory holds no complete preference model."""
        checkpoint = load_checkpoint(directory, KIND)
        try:
            net, facts = _described(checkpoint.config)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{directory}/{CONFIG_FILE}: describes no {KIND} model ({error})") from None
        load_module(net, checkpoint, directory)
        return cls(net, facts, checkpoint.version, checkpoint.config["shift"], checkpoint.config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 log-odds; NaN where a clip holds a code that its stream does not have."""
        assert clips.codes is not None, "preference reads codes"
        return self.score_codes(clips.prompts, clips.codes)

    def score_codes(self, prompts: tuple[str, ...] | list[str], codes: np.ndarray) -> np.ndarray:
        """prompts [B], codes [B, K, T] -> [B] float32."""
        return self.score_and_features(prompts, codes)[0]

    def score_and_features(
        self, prompts: tuple[str, ...] | list[str], codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """-> scores [B], and features [B, R] along the model's axes for personal heads; means over the windows."""
        found = self._read(prompts, codes)
        return found[:, 0] / np.float32(self.facts.temperature), found[:, 1:]

    def _read(self, prompts: tuple[str, ...] | list[str], codes: np.ndarray) -> np.ndarray:
        self._check_shape(codes)
        valid = np.all(codes < self._sizes[:, None], axis=(1, 2))
        text, out = self.net.encode_text(prompts), []
        with torch.inference_mode():
            for first in range(0, len(codes), SCORED_AT_ONCE):
                rows = slice(first, first + SCORED_AT_ONCE)
                part = torch.from_numpy(np.where(valid[rows, None, None], codes[rows], 0).astype(np.int64))
                out.append(_mean_over_windows(self.net, part, text[rows], self.facts.window_frames))
        scores = torch.cat(out).numpy()
        scores[~valid] = np.nan
        return scores

    def _check_shape(self, codes: np.ndarray) -> None:
        """Another policy's codes are an error of the run's wiring, not of a clip."""
        if codes.ndim != 3 or codes.shape[1] != len(self._sizes) or codes.shape[2] < 1:
            raise ValueError(f"preference: got codes {list(codes.shape)}, allowed [B, {len(self._sizes)}, T]")


def save_preference(directory: str | Path, net: PreferenceNet, facts: PreferenceFacts, **more: Any) -> None:
    """`more` goes into config.json (shift and scale, for instance, else 0 and 1). Weights are stored as float16."""
    tokenizer = net.tokenizer
    entries = {
        "kind": KIND,
        "net": asdict(net.config),
        "policy": asdict(facts.shapes),
        "vocabulary": {"words": list(tokenizer.words), "buckets": tokenizer.buckets, "length": tokenizer.length},
        "window_frames": facts.window_frames,
        "temperature": facts.temperature,
        "shift": 0.0,
        "scale": 1.0,
        **more,
    }
    save_checkpoint(directory, entries, net.state_dict())


def _described(config: dict[str, Any]) -> tuple[PreferenceNet, PreferenceFacts]:
    shapes = {**config["policy"], "streams": tuple(Stream(**stream) for stream in config["policy"]["streams"])}
    words = config["vocabulary"]
    tokenizer = TextTokenizer(tuple(words["words"]), int(words["buckets"]), int(words["length"]))
    facts = PreferenceFacts(TinyMusicLMConfig(**shapes), int(config["window_frames"]), float(config["temperature"]))
    if not (facts.window_frames >= 1 and facts.temperature > 0):
        raise ValueError(f"window_frames {facts.window_frames}, temperature {facts.temperature}")
    return PreferenceNet.empty(facts.shapes, tokenizer, PreferenceNetConfig(**config["net"])), facts


def _mean_over_windows(net: PreferenceNet, codes: Tensor, text: Tensor, window_frames: int) -> Tensor:
    """-> [b, 1 + R]."""
    parts = windowed(codes, window_frames)
    return torch.stack([net.read(part, torch.full((len(part),), part.shape[2]), text) for part in parts]).mean(0)
