"""EnCodec (Défossez et al., arXiv 2210.13438) behind the codec port, through the `encodec` package.

24 kHz: mono, causal, 75 frames a second, up to 32 residual levels of 1024 entries; the bandwidth chooses how many
(1.5 kbit/s: 2, 3: 4, 6: 8, 12: 16, 24: 32).

48 kHz: stereo, in segments of one second that start every 0.99 s, each of 150 frames (3 kbit/s: 2 levels, 6: 4, 12: 8,
24: 16). The model normalises each segment's loudness, which its tokens do not hold: `encode_with_levels` gives it
beside them, and without it `decode` plays every segment at one loudness, `level_rms` of the configuration (0.1: -20
dBFS).

Checkpoints: codec/encodec_folder.py. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.errors import UserError
from codec.audio import resample
from codec.encodec_folder import KIND, MODEL, read_settings, read_weights
from codec.encodec_stream import CausalDecoder, overlapped
from codec.log_mel import SAMPLE_RATE_HZ as MEL_RATE_HZ
from codec.log_mel import log_mel
from codec.torchaudio_guard import import_encodec

BANDWIDTHS_KBPS = (1.5, 3.0, 6.0, 12.0, 24.0)
STEREO = "encodec_48khz"
BANDWIDTHS = {MODEL: BANDWIDTHS_KBPS, STEREO: (3.0, 6.0, 12.0, 24.0)}
HOP = 320
SEGMENT_FRAMES, SEGMENT, STRIDE = 150, 48_000, 47_520  # of the 48 kHz model
_BITS_PER_FRAME_AND_LEVEL = 10


class EncodecCodec:
    """`codec.port.Codec` over EnCodec's models. Weights are never trained here."""

    def __init__(self, model: nn.Module, bandwidth_kbps: float, name: str = MODEL, level_rms: float = 0.1) -> None:
        if bandwidth_kbps not in BANDWIDTHS[name]:
            allowed = ", ".join(f"{rate:g}" for rate in BANDWIDTHS[name])
            raise UserError(f"codec bandwidth_kbps: got {bandwidth_kbps}, allowed: {allowed}")
        self.model = model.eval().requires_grad_(False)
        self.name, self.bandwidth_kbps, self.level_rms = name, bandwidth_kbps, level_rms
        self.version = _weights_digest(model)

    @classmethod
    def load(cls, directory: str | Path) -> EncodecCodec:
        """Reads a checkpoint directory. Raises UserError when it is missing, damaged or of another kind."""
        directory = Path(directory)
        settings = read_settings(directory, BANDWIDTHS)
        model = new_model(settings.model)
        try:
            model.load_state_dict(read_weights(directory, settings, model))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise UserError(
                f"codec: got {directory} with weights of another model, allowed: those of {settings.model}"
            ) from error
        return cls(model, settings.bandwidth_kbps, settings.model, settings.level_rms)

    def save(self, directory: str | Path) -> None:
        """Writes what `load` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.clone().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(tensors, directory / "model.safetensors")
        config = {"kind": KIND, "model": self.name, "bandwidth_kbps": self.bandwidth_kbps, "level_rms": self.level_rms}
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @property
    def stereo(self) -> bool:
        return self.name == STEREO

    @property
    def sample_rate_hz(self) -> int:
        return 48_000 if self.stereo else 24_000

    @property
    def channels(self) -> int:
        return 2 if self.stereo else 1

    @property
    def frame_rate_hz(self) -> float:
        """Frames a second of sound; segments of the 48 kHz model overlap, so these are a little more than 150."""
        return SEGMENT_FRAMES * self.sample_rate_hz / STRIDE if self.stereo else 75.0

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        levels = round(1000 * self.bandwidth_kbps / (self._plain_rate * _BITS_PER_FRAME_AND_LEVEL))
        return (1024,) * levels

    @property
    def _plain_rate(self) -> int:
        """Frames a second inside a segment, by which the package counts bandwidth."""
        return self.sample_rate_hz // HOP

    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, C, N] -> codes [B, K, T]; 24 kHz: T = ceil(N / 320), 48 kHz: the frames of all segments in a row."""
        return self.encode_with_levels(pcm)[0]

    @torch.no_grad()
    def encode_with_levels(self, pcm: Tensor) -> tuple[Tensor, Tensor | None]:
        """pcm [B, C, N] -> codes [B, K, T] and, at 48 kHz, the loudness (RMS) of each segment [B, S]."""
        if pcm.ndim != 3 or pcm.shape[1] != self.channels:
            raise ValueError(f"pcm: expected [B, {self.channels}, N], got {tuple(pcm.shape)}")
        if not self.stereo:
            return self._encode(pcm), None
        codes, levels = [], []
        for start in range(0, pcm.shape[-1], STRIDE):
            segment = pcm[..., start : start + SEGMENT]
            level = 1e-8 + segment.mean(1, keepdim=True).square().mean(2, keepdim=True).sqrt()  # [B, 1, 1]
            codes.append(self._encode(segment / level))
            levels.append(level[:, 0, 0])
        return torch.cat(codes, dim=-1), torch.stack(levels, dim=1)

    def decode(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:
        """codes [B, k, T], the k leading levels -> pcm [B, C, N] in [-1, 1]. levels [B, S]: of `encode_with_levels`."""
        self._check(codes)
        if not self.stereo:
            return self._decode(codes)
        return torch.cat(list(self._segments([codes], levels)), dim=-1).clamp(-1.0, 1.0)

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Codes of one batch of clips, piece by piece [B, k, t] -> their sound, piece by piece [B, C, n].

        Together they are `decode` of the whole, up to rounding. 24 kHz: each piece at once, the first of at least 8
        frames; 48 kHz: as segments become full, at `level_rms`.
        """
        if self.stereo:
            yield from (piece.clamp(-1.0, 1.0) for piece in self._segments(pieces, None))
            return
        decoder = CausalDecoder(self.model.decoder)
        for codes in pieces:
            self._check(codes)
            yield decoder.push(self._latent(codes)).clamp(-1.0, 1.0)

    def decode_log_mel(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> log-mel [B, 64, F] of the decoded audio at 16 kHz. The decoder makes a waveform anyway."""
        pcm = self.decode(codes).mean(1)
        at_16_khz = resample(pcm.cpu().numpy(), self.sample_rate_hz, MEL_RATE_HZ)
        return log_mel(torch.from_numpy(np.ascontiguousarray(at_16_khz)).to(pcm.device))

    def _segments(self, pieces: Iterable[Tensor], levels: Tensor | None) -> Iterator[Tensor]:
        """48 kHz: codes in pieces of any length -> cross-faded sound."""

        def decoded() -> Iterator[Tensor]:
            waiting: Tensor | None = None
            for codes in pieces:
                self._check(codes)
                waiting = codes if waiting is None else torch.cat([waiting, codes], dim=-1)
                while waiting.shape[-1] >= SEGMENT_FRAMES:
                    yield self._decode(waiting[..., :SEGMENT_FRAMES], clip=False)
                    waiting = waiting[..., SEGMENT_FRAMES:]
            if waiting is not None and waiting.shape[-1]:
                yield self._decode(waiting, clip=False)

        def at_level() -> Iterator[Tensor]:
            for place, segment in enumerate(decoded()):
                yield segment * (self.level_rms if levels is None else levels[:, place, None, None])

        yield from overlapped(at_level(), STRIDE)

    def _encode(self, pcm: Tensor) -> Tensor:
        embedding = self.model.encoder(pcm)  # type: ignore[operator]
        rate, bandwidth = self._plain_rate, self.bandwidth_kbps
        codes = self.model.quantizer.encode(embedding, rate, bandwidth)  # type: ignore[union-attr, operator]
        return codes.transpose(0, 1)

    @torch.no_grad()
    def _decode(self, codes: Tensor, clip: bool = True) -> Tensor:
        pcm = self.model.decoder(self._latent(codes))  # type: ignore[operator]
        return pcm.clamp(-1.0, 1.0) if clip else pcm

    @torch.no_grad()
    def _latent(self, codes: Tensor) -> Tensor:
        return self.model.quantizer.decode(codes.long().transpose(0, 1))  # type: ignore[union-attr, operator]

    def _check(self, codes: Tensor) -> None:
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= len(self.codebook_sizes):
            raise ValueError(f"codes: expected [B, 1..{len(self.codebook_sizes)}, T], got {tuple(codes.shape)}")


def load_encodec(directory: str | Path) -> EncodecCodec:
    """`EncodecCodec.load`, for the dispatch of codec.checkpoint."""
    return EncodecCodec.load(directory)


def new_model(name: str = MODEL) -> nn.Module:
    """A model before any weights; nothing is downloaded. Its codebooks are empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package's weight_norm, whose key names its files use
        kind = import_encodec().EncodecModel
        return (
            kind.encodec_model_48khz(pretrained=False) if name == STEREO else kind.encodec_model_24khz(pretrained=False)
        )


def random_model(seed: int, name: str = MODEL) -> nn.Module:
    """A model with random weights and codebooks: noise in the right shapes, for tests and trials of speed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_model(name).eval()
        with torch.no_grad():
            # entries where the random encoder's outputs lie, or all frames would share one
            embedding = model.encoder(0.1 * torch.randn(1, 2 if name == STEREO else 1, 24_000))[0]  # type: ignore[operator]
            centre, spread = embedding.mean(1), embedding.std(1)  # [D]
            for level in model.quantizer.vq.layers:  # type: ignore[union-attr]
                level._codebook.embed.normal_().mul_(spread).add_(centre)
                level._codebook.inited.fill_(True)
                centre = torch.zeros_like(centre)
    return model


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:12]
