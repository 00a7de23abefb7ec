"""How good does the clip sound? A reference-free mean opinion score in [1, 5], whatever is being played.

Regressed from damage of known severity: a clean clip is worth CLEAN_MOS, the worst damage WORST_MOS, linear between.
Source: MusicRL section 3.3 (a reference-free estimator of MOS in 1..5, of quality alone, not of musicality); learning
it from known degradations instead of raters is our choice for the tiny world.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from rewards.checkpoint import load_checkpoint, load_module, save_checkpoint
from rewards.port import ClipBatch, ClipView
from rewards.towers import AudioTower, AudioTowerConfig, head
from rewards.windows import mean_over_windows

KIND = "quality"
CLEAN_MOS, WORST_MOS = 4.7, 1.2


def mos_of_severity(severity: Tensor) -> Tensor:
    """Severity in [0, 1] -> opinion score."""
    return CLEAN_MOS - (CLEAN_MOS - WORST_MOS) * severity


@dataclass(frozen=True)
class QualityConfig:
    hidden: int = 128
    audio: AudioTowerConfig = field(default_factory=AudioTowerConfig)


class QualityNet(nn.Module):
    """Log-mel [B, 64, F] -> MOS [B] in (1, 5)."""

    def __init__(self, config: QualityConfig) -> None:
        super().__init__()
        self.audio = AudioTower(config.audio)
        self.head = head(self.audio.width, config.hidden, 1)

    def forward(self, log_mel: Tensor) -> Tensor:
        return 1.0 + 4.0 * self.head(self.audio(log_mel)).squeeze(1).sigmoid()


class Quality:
    """The reward model of rewards.port over a trained network."""

    needs: frozenset[ClipView] = frozenset({"log_mel"})

    def __init__(self, net: QualityNet, version: str, shift: float = 0.0, scale: float = 1.0, name: str = KIND) -> None:
        self.net, self.version, self.shift, self.scale, self.name = net.eval(), version, shift, scale, name

    @classmethod
    def load(cls, directory: str | Path) -> Quality:
        """Raises UserError where the directory holds no complete quality model."""
        checkpoint = load_checkpoint(directory, KIND)
        entries = checkpoint.config["net"]
        net = QualityNet(QualityConfig(entries["hidden"], AudioTowerConfig.of(entries["audio"])))
        load_module(net, checkpoint, directory)
        return cls(net, checkpoint.version, checkpoint.config["shift"], checkpoint.config["scale"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 in (1, 5); NaN where a clip holds a non-finite value. Prompts are not read."""
        assert clips.log_mel is not None, "quality reads log_mel"
        return mean_over_windows(clips.log_mel, self.net)


def save_quality(directory: str | Path, net: QualityNet, config: QualityConfig, **more: Any) -> None:
    """`more` goes into config.json; shift and scale start as 0 and 1."""
    entries = {"kind": KIND, "net": asdict(config), "shift": 0.0, "scale": 1.0, **more}
    save_checkpoint(directory, entries, net.state_dict())
