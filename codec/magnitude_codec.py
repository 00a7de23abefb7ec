"""The world's own codec: log-magnitude spectra in, residual codes at 25 Hz, log-magnitude spectra out.

Tokens carry no phase: a convolutional decoder fed with phase-free tokens can hold a steady tone only at multiples of
the frame rate, so the phase is rebuilt from the magnitudes (`codec.phase`). Scorers need no phase at all and read
`decode_log_mel`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.errors import UserError
from codec.convnext import Block
from codec.log_mel import BINS, HOP, SAMPLE_RATE_HZ, log_mel_from_magnitude, magnitude
from codec.phase import DEFAULT_ITERATIONS, waveform
from codec.quantizer import ResidualQuantizer

BIN_FLOOR = 2e-4  # bins below are inaudible beside the music; a lower floor would spend bits on them
MAGNITUDE_LIMIT = 1.0  # no 16 kHz signal in [-1, 1] has a larger bin


@dataclass(frozen=True)
class MagnitudeCodecConfig:
    """Shape of the codec. `spectra_per_frame` of the 50 Hz spectra make one token frame (2: 25 Hz)."""

    width: int = 256
    hidden: int = 544
    blocks: int = 3
    latent: int = 32
    levels: int = 4
    entries: int = 256
    spectra_per_frame: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "blocks", "latent", "levels", "entries", "spectra_per_frame"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_536:
                raise UserError(f"codec.{name}: got {value!r}, allowed a whole number from 1 to 65536")


class LatentNorm(nn.BatchNorm1d):
    """Zero mean and unit variance of each latent over the data, [B, T, D].

    Normalising each frame by itself instead leaves the spread between frames free to vanish into one direction, and
    with it what the quantiser has to choose from.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False, momentum=0.05)

    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent.transpose(1, 2)).transpose(1, 2)


class MagnitudeCodec(nn.Module):
    """`codec.port.Codec` over 16 kHz mono."""

    def __init__(self, config: MagnitudeCodecConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or MagnitudeCodecConfig()
        fold = c.spectra_per_frame
        self.read = nn.Linear(BINS, c.width)
        self.first = Block(c.width, c.hidden)
        self.gather = nn.Linear(c.width * fold, c.width)
        self.encoder = nn.Sequential(*(Block(c.width, c.hidden) for _ in range(c.blocks)))
        self.to_latent = nn.Linear(c.width, c.latent)
        self.latent_norm = LatentNorm(c.latent)
        self.quantizer = ResidualQuantizer(c.levels, c.entries, c.latent)
        self.from_latent = nn.Linear(c.latent, c.width)
        self.decoder = nn.Sequential(*(Block(c.width, c.hidden) for _ in range(c.blocks)))
        self.spread = nn.Linear(c.width, c.width * fold)
        self.finish = Block(c.width, c.hidden)
        self.write = nn.Linear(c.width, BINS)
        self.iterations = DEFAULT_ITERATIONS
        self.fast_bf16 = False  # autocast of the stacks; for training on CPUs that compute in bf16

    @property
    def sample_rate_hz(self) -> int:
        return SAMPLE_RATE_HZ

    @property
    def channels(self) -> int:
        return 1

    @property
    def frame_rate_hz(self) -> float:
        return SAMPLE_RATE_HZ / (HOP * self.config.spectra_per_frame)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.entries,) * self.config.levels

    @functools.cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of all weights. Computed once: a loaded codec is not trained further."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, N] -> codes [B, K, T], T = N // 640; a remainder shorter than a frame is dropped."""
        if pcm.dim() != 3 or pcm.shape[1] != 1:
            raise ValueError(f"pcm: got shape {tuple(pcm.shape)}, allowed [B, 1, N]")
        return self.quantizer.encode(self.latents(magnitude(pcm[:, 0].float())))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> pcm [B, 1, 640 T]."""
        return waveform(self.decode_magnitude(codes), self.iterations).clamp(-1.0, 1.0)[:, None]

    @torch.no_grad()
    def decode_log_mel(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> [B, 64, 2 T] at 50 Hz."""
        return log_mel_from_magnitude(self.decode_magnitude(codes))

    @torch.no_grad()
    def decode_magnitude(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> STFT magnitudes [B, 641, F]."""
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.config.levels:
            raise ValueError(f"codes: got shape {tuple(codes.shape)}, allowed [B, 1..{self.config.levels}, T]")
        return self.spectra(self.quantizer.decode(codes)).exp().clamp_max(MAGNITUDE_LIMIT)

    def latents(self, spectrum: Tensor) -> Tensor:
        """Magnitudes [B, 641, F] -> normalised latents [B, T, D], before quantisation."""
        fold = self.config.spectra_per_frame
        frames = spectrum.shape[-1] // fold
        with self._autocast():
            x = self.read(log_bins(spectrum)[..., : frames * fold].transpose(1, 2) * 0.5 + 3.0)
            x = self.gather(self.first(x).reshape(len(x), frames, -1))
            latent = self.to_latent(self.encoder(x))
        return self.latent_norm(latent.float())

    def spectra(self, latent: Tensor) -> Tensor:
        """Latents [B, T, D] -> natural-log magnitudes [B, 641, F]."""
        with self._autocast():
            x = self.decoder(self.from_latent(latent))
            x = self.spread(x).reshape(len(x), -1, self.config.width)
            bins = self.write(self.finish(x))
        return bins.float().transpose(1, 2) - 6.0

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if self.fast_bf16 else contextlib.nullcontext()


def log_bins(spectrum: Tensor) -> Tensor:
    """Floored natural logarithm of STFT magnitudes, shape kept."""
    return spectrum.clamp_min(BIN_FLOOR).log()
