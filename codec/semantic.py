"""Semantic tokens: which of V kinds of musical moment each frame is, by k-means over the features of a small network.

The network hears log-mel spectra and was taught what a listener would write down (sounding pitch classes, harmony,
onsets, instruments and manner), so that its clusters follow the music rather than the waveform.

Source: Borsos et al. 2022 (arXiv 2209.03143), section III-A, where the features are w2v-BERT's.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cluster.errors import UserError
from codec.checkpoint import load_weights, read_config, save_weights
from codec.convnext import Block
from codec.log_mel import HOP, MELS, SAMPLE_RATE_HZ, log_mel
from codec.quantizer import nearest

KIND = "semantic_tokenizer"


@dataclass(frozen=True)
class SemanticConfig:
    """Shape of the tokenizer. `spectra_per_frame` of the 50 Hz spectra make one token (2: 25 Hz)."""

    width: int = 96
    hidden: int = 256
    blocks: int = 4
    features: int = 48
    entries: int = 256
    spectra_per_frame: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_536:
                raise UserError(f"semantic.{field.name}: got {value!r}, allowed a whole number from 1 to 65536")


class SemanticFeatures(nn.Module):
    """log-mel [B, 64, F] -> features [B, D, T], each frame of unit length."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.fold = config.spectra_per_frame
        self.read = nn.Linear(MELS * self.fold, config.width)
        self.body = nn.Sequential(*(Block(config.width, config.hidden) for _ in range(config.blocks)))
        self.out = nn.Linear(config.width, config.features)

    def forward(self, mel: Tensor) -> Tensor:
        frames = mel.shape[-1] // self.fold
        x = mel[..., : frames * self.fold].transpose(1, 2).reshape(len(mel), frames, -1) * 0.4 + 2.4
        return F.normalize(self.out(self.body(self.read(x))), dim=-1).transpose(1, 2)


class SemanticTokenizer(nn.Module):
    """Audio to semantic tokens; there is no way back (they are read by models, not heard)."""

    centroids: Tensor

    def __init__(self, feature_net: SemanticFeatures, centroids: Tensor, config: SemanticConfig) -> None:
        super().__init__()
        self.config, self.feature_net = config, feature_net
        self.register_buffer("centroids", centroids)  # [V, D]

    @property
    def frame_rate_hz(self) -> float:
        return SAMPLE_RATE_HZ / (HOP * self.config.spectra_per_frame)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.entries,)

    @functools.cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, N] at 16 kHz -> tokens [B, 1, T], T = N // 640."""
        if pcm.dim() != 3 or pcm.shape[1] != 1:
            raise ValueError(f"pcm: got shape {tuple(pcm.shape)}, allowed [B, 1, N]")
        return self.encode_log_mel(log_mel(pcm[:, 0].float()))

    @torch.no_grad()
    def encode_log_mel(self, mel: Tensor) -> Tensor:
        """mel [B, 64, F] -> tokens [B, 1, T]."""
        return nearest(self.feature_net(mel).transpose(1, 2), self.centroids)[:, None]


def save_semantic(tokenizer: SemanticTokenizer, directory: str | Path) -> None:
    """Writes config.json and half-precision model.safetensors."""
    save_weights(tokenizer, Path(directory), {"kind": KIND, **asdict(tokenizer.config)})


def load_semantic(directory: str | Path) -> SemanticTokenizer:
    """The tokenizer in `directory`, in evaluation mode. Raises UserError for anything that is not a whole one."""
    folder = Path(directory)
    values = read_config(folder, "semantic", (KIND,))
    known = {field.name for field in fields(SemanticConfig)}
    unknown = set(values) - known - {"kind"}
    if unknown:
        allowed = ", ".join(sorted(known))
        raise UserError(f"semantic: got unknown key {sorted(unknown)[0]!r} in {folder}/config.json, allowed {allowed}")
    config = SemanticConfig(**{key: values[key] for key in known & set(values)})
    tokenizer = SemanticTokenizer(SemanticFeatures(config), torch.zeros(config.entries, config.features), config)
    load_weights(tokenizer, folder, "semantic")
    return tokenizer.eval()
