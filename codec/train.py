"""Trains the magnitude codec: a short run without the quantiser, a k-means start, then the whole, the rate to zero."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codec.checkpoint import save_codec
from codec.log_mel import HOP, log_mel_from_magnitude, magnitude
from codec.magnitude_codec import BIN_FLOOR, MagnitudeCodec, MagnitudeCodecConfig, log_bins
from codec.quantizer import perplexity

CROP_SPECTRA = 100  # 2 s
MIN_PERPLEXITY = 24.0  # of 256; a level below is collapsing, and training says so


class Clips(Protocol):
    """A source of sound: any number of clips of one length."""

    def __len__(self) -> int: ...

    def pcm(self, indices: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """float32 [B, N] at 16 kHz."""
        ...


@dataclass(frozen=True)
class CodecTraining:
    """How to train. The rate rises over the first 2 % of the budget and falls to zero along a cosine."""

    minutes: float = 35.0
    steps: int = (
        0  # where set, the budget is so many updates rather than minutes, and the same seed gives the same codec
    )
    seed: int = 0
    batch: int = 16
    rate: float = 1.5e-3
    free_share: float = 0.06  # of the budget, before the quantiser starts
    commitment: float = 0.15
    report_s: float = 30.0
    save_s: float = 120.0


def train_codec(
    clips: Clips,
    valid: Clips,
    directory: str | Path,
    training: CodecTraining | None = None,
    config: MagnitudeCodecConfig | None = None,
    say: Callable[[str], None] = print,
) -> MagnitudeCodec:
    """Trains on `clips`, reports on `valid`, exports to `directory`; goes on from `directory`/training.pt.

    By default the budget is wall-clock minutes, so that a slow machine gets a worse codec, not a longer evening.
    Raises FloatingPointError on a loss that is not finite.
    """
    return _Trainer(clips, valid, Path(directory), training or CodecTraining(), config, say).run()


class _Trainer:
    def __init__(
        self,
        clips: Clips,
        valid: Clips,
        folder: Path,
        training: CodecTraining,
        config: MagnitudeCodecConfig | None,
        say: Callable[[str], None],
    ) -> None:
        self.clips, self.valid, self.folder, self.t, self.say = clips, valid, folder, training, say
        torch.manual_seed(training.seed)
        self.codec = MagnitudeCodec(config)
        self.codec.fast_bf16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and _has_bf16()
        self.optimiser = torch.optim.AdamW(self.codec.parameters(), lr=0.0, betas=(0.8, 0.99), weight_decay=1e-3)
        self.rng = np.random.default_rng(training.seed)
        self.step, self.spent_s, self.quantised = 0, 0.0, False
        self.averages: dict[str, float] = {}

    def run(self) -> MagnitudeCodec:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        said = saved = self.spent_s
        before = time.monotonic()
        self.codec.train()
        while (done := self._done()) < 1.0:
            if not self.quantised and done >= self.t.free_share:
                self._start_quantiser()
            self._update(done)
            now = time.monotonic()
            self.spent_s, before = self.spent_s + now - before, now
            if self.spent_s - said > self.t.report_s:
                said = self.spent_s
                self._report()
            if self.spent_s - saved > self.t.save_s:
                saved = self.spent_s
                self._save()
        self._save()
        self.codec.fast_bf16 = False
        self.codec.eval()
        save_codec(self.codec, self.folder)
        self._report()
        return self.codec

    def _done(self) -> float:
        """Share of the budget that is spent."""
        return self.step / self.t.steps if self.t.steps else self.spent_s / (self.t.minutes * 60)

    def _update(self, done: float) -> None:
        spectrum = self._batch()
        rate = self.t.rate * min(1.0, done / 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, 1e-6)
        latent = self.codec.latents(spectrum)
        commitment = torch.zeros(())
        if self.quantised:
            latent, commitment, _ = self.codec.quantizer(latent, self._levels(len(latent)))
        losses = spectral_losses(self.codec.spectra(latent), spectrum)
        total = 0.5 * losses["bins"] + losses["mel"] + losses["root"] + self.t.commitment * commitment
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        if not bool(torch.isfinite(total)):
            raise FloatingPointError(f"codec training: loss {float(total)} at step {self.step}")
        self.optimiser.step()
        self.step += 1
        for name, value in {**losses, "commitment": commitment}.items():
            self.averages[name] = 0.98 * self.averages.get(name, float(value.detach())) + 0.02 * float(value.detach())

    def _batch(self) -> Tensor:
        """[B, 641, 100] magnitudes of random clips, cut at random samples, at slightly different loudness."""
        pcm = self.clips.pcm(self.rng.integers(len(self.clips), size=self.t.batch))
        samples = CROP_SPECTRA * HOP
        starts = self.rng.integers(0, pcm.shape[1] - samples + 1, size=len(pcm))
        crops = torch.stack([row[start : start + samples] for row, start in zip(pcm, starts.tolist(), strict=True)])
        gain = 10 ** (torch.as_tensor(self.rng.uniform(-3, 2, (len(pcm), 1)), dtype=torch.float32) / 20)
        return magnitude(crops * gain)

    def _levels(self, batch: int) -> Tensor:
        """Quantiser dropout: three sequences in ten keep only the first one to K-1 levels."""
        levels = self.codec.config.levels
        fewer = self.rng.integers(1, max(2, levels), size=batch)
        return torch.as_tensor(np.where(self.rng.random(batch) < 0.3, fewer, levels))

    @torch.no_grad()
    def _start_quantiser(self) -> None:
        latents = torch.cat([self.codec.latents(self._batch()).flatten(0, 1) for _ in range(24)])
        generator = torch.Generator().manual_seed(self.t.seed)
        self.codec.quantizer.start_from(latents, generator)
        self.quantised = True
        self.say(f"codec: step {self.step}, quantiser started by k-means on {len(latents)} latents")

    def _report(self) -> None:
        figures = measure(self.codec, self.valid, range(min(48, len(self.valid)))) if self.quantised else {}
        if figures and min(figures["perplexity"]) < MIN_PERPLEXITY * self.codec.config.entries / 256:
            self.say(f"codec: WARNING a codebook is collapsing, perplexities {figures['perplexity']}")
        text = " ".join(f"{name} {value:.3f}" for name, value in self.averages.items())
        shown = " ".join(f"{name} {[round(v, 3) for v in values]}" for name, values in figures.items())
        self.say(
            f"codec: {self._done():.0%} after {self.spent_s / 60:.1f} min, step {self.step}, {text} | valid {shown}"
        )

    def _save(self) -> None:
        state = {
            "codec": self.codec.state_dict(),
            "shares": self.codec.quantizer.shares,
            "sums": self.codec.quantizer.sums,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
            "quantised": self.quantised,
        }
        torch.save(state, self.folder / "training.partial")
        (self.folder / "training.partial").rename(self.folder / "training.pt")

    def _resume(self) -> None:
        path = self.folder / "training.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.codec.load_state_dict(state["codec"])
        self.codec.quantizer.shares.copy_(state["shares"])
        self.codec.quantizer.sums.copy_(state["sums"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.spent_s, self.quantised = state["step"], state["spent_s"], state["quantised"]
        self.rng = np.random.default_rng((self.t.seed, self.step))
        self.say(f"codec: goes on at step {self.step}, {self._done():.0%} of the budget spent")


def spectral_losses(predicted_log: Tensor, spectrum: Tensor) -> dict[str, Tensor]:
    """Distances of predicted log magnitudes [B, 641, F] to magnitudes [B, 641, F].

    `bins` L1 of log bins, `mel` L1 of log-mel, `root` relative L1 of square-root magnitudes (weighs what is loud).
    """
    floored = predicted_log.clamp(math.log(BIN_FLOOR) - 2.0, 0.0)
    predicted = floored.exp()
    root, target_root = predicted.sqrt(), spectrum.clamp_min(1e-8).sqrt()
    return {
        "bins": (predicted_log - log_bins(spectrum)).abs().mean(),
        "mel": (log_mel_from_magnitude(predicted) - log_mel_from_magnitude(spectrum)).abs().mean(),
        "root": (root - target_root).abs().sum() / target_root.sum(),
    }


@torch.no_grad()
def measure(codec: MagnitudeCodec, clips: Clips, indices: Sequence[int], batch: int = 48) -> dict[str, list[float]]:
    """Log-mel L1 with 1..K levels, and the perplexity of each codebook, on the clips named."""
    was_training = codec.training
    codec.eval()
    levels = range(1, codec.config.levels + 1)
    errors, every = [], []
    for first in range(0, len(indices), batch):
        spectrum = magnitude(clips.pcm(indices[first : first + batch]))
        codes = codec.quantizer.encode(codec.latents(spectrum))
        truth = log_mel_from_magnitude(spectrum)[..., : codes.shape[2] * codec.config.spectra_per_frame]
        distances = [(codec.decode_log_mel(codes[:, :k]) - truth).abs().mean((1, 2)) for k in levels]
        errors.append(torch.stack(distances))
        every.append(codes)
    codec.train(was_training)
    mel = torch.cat(errors, 1).mean(1).tolist()
    return {"mel_l1": mel, "perplexity": perplexity(torch.cat(every), codec.config.entries)}


def _has_bf16() -> bool:
    """True where bf16 matrix products run in hardware; elsewhere autocast only costs."""
    return bool(torch.cpu._is_avx512_bf16_supported())
