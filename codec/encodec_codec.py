"""EnCodec (Défossez et al., arXiv 2210.13438) behind the codec port, through the `encodec` package.

A checkpoint is a local directory:

    config.json        {"kind": "encodec", "model": "encodec_24khz", "bandwidth_kbps": 6.0}
    model.safetensors  the model's weights, or the package's own encodec_24khz-*.th

24 kHz mono, 75 frames a second, up to 32 residual levels of 1024 entries; the bandwidth chooses how many
(1.5 kbit/s: 2, 3: 4, 6: 8, 12: 16, 24: 32). The 48 kHz model is refused: it cuts audio into overlapping, separately
normalised segments, whose loudness is not part of its tokens, so tokens alone do not decode.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cluster.errors import UserError
from codec.audio import resample
from codec.log_mel import SAMPLE_RATE_HZ as MEL_RATE_HZ
from codec.log_mel import log_mel
from codec.torchaudio_guard import import_encodec

KIND = "encodec"
MODEL = "encodec_24khz"
BANDWIDTHS_KBPS = (1.5, 3.0, 6.0, 12.0, 24.0)
_BITS_PER_FRAME_AND_LEVEL = 10


class EncodecCodec:
    """`codec.port.Codec` over EnCodec's 24 kHz model. Weights are never trained here."""

    sample_rate_hz = 24_000
    channels = 1
    frame_rate_hz = 75.0

    def __init__(self, model: nn.Module, bandwidth_kbps: float) -> None:
        _check_bandwidth(bandwidth_kbps)
        self.model = model.eval().requires_grad_(False)
        self.bandwidth_kbps = bandwidth_kbps
        self.version = _weights_digest(model)

    @classmethod
    def load(cls, directory: str | Path) -> EncodecCodec:
        """Reads a checkpoint directory. Raises UserError when it is missing, damaged or of another kind."""
        directory = Path(directory)
        bandwidth_kbps = _read_config(directory).get("bandwidth_kbps", 6.0)
        _check_bandwidth(bandwidth_kbps)
        weights = _read_weights(directory)
        model = new_model()
        try:
            model.load_state_dict(weights)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise UserError(
                f"codec: got {directory} with weights of another model, allowed: those of {MODEL}"
            ) from error
        return cls(model, bandwidth_kbps)

    def save(self, directory: str | Path) -> None:
        """Writes what `load` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.clone().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(tensors, directory / "model.safetensors")
        config = {"kind": KIND, "model": MODEL, "bandwidth_kbps": self.bandwidth_kbps}
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        levels = round(1000 * self.bandwidth_kbps / (self.frame_rate_hz * _BITS_PER_FRAME_AND_LEVEL))
        return (1024,) * levels

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, 1, N] at 24 kHz -> codes [B, K, T], T = ceil(N / 320)."""
        if pcm.ndim != 3 or pcm.shape[1] != self.channels:
            raise ValueError(f"pcm: expected [B, 1, N], got {tuple(pcm.shape)}")
        embedding = self.model.encoder(pcm)  # type: ignore[operator]
        codes = self.model.quantizer.encode(embedding, 75, self.bandwidth_kbps)  # type: ignore[union-attr, operator]
        return codes.transpose(0, 1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, k, T], the k leading levels -> pcm [B, 1, 320 * T] in [-1, 1]."""
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= len(self.codebook_sizes):
            raise ValueError(f"codes: expected [B, 1..{len(self.codebook_sizes)}, T], got {tuple(codes.shape)}")
        embedding = self.model.quantizer.decode(codes.long().transpose(0, 1))  # type: ignore[union-attr, operator]
        return self.model.decoder(embedding).clamp(-1.0, 1.0)  # type: ignore[operator]

    def decode_log_mel(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> log-mel [B, 64, F] of the decoded audio at 16 kHz. The decoder makes a waveform anyway."""
        pcm = self.decode(codes)[:, 0]
        at_16_khz = resample(pcm.cpu().numpy(), self.sample_rate_hz, MEL_RATE_HZ)
        return log_mel(torch.from_numpy(np.ascontiguousarray(at_16_khz)).to(pcm.device))


def load_encodec(directory: str | Path) -> EncodecCodec:
    """`EncodecCodec.load`, for the dispatch of codec.checkpoint."""
    return EncodecCodec.load(directory)


def new_model() -> nn.Module:
    """The 24 kHz model before any weights; nothing is downloaded. Its codebooks are empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the package's weight_norm, whose key names its files use
        return import_encodec().EncodecModel.encodec_model_24khz(pretrained=False)


def random_model(seed: int) -> nn.Module:
    """The 24 kHz model with random weights and codebooks: noise in the right shapes, for tests and trials of speed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_model().eval()
        with torch.no_grad():
            # entries where the random encoder's outputs lie, or all frames would share one
            embedding = model.encoder(0.1 * torch.randn(1, 1, 24_000))[0]  # type: ignore[operator]
            centre, spread = embedding.mean(1), embedding.std(1)  # [D]
            for level in model.quantizer.vq.layers:  # type: ignore[union-attr]
                level._codebook.embed.normal_().mul_(spread).add_(centre)
                level._codebook.inited.fill_(True)
                centre = torch.zeros_like(centre)
    return model


def _check_bandwidth(bandwidth_kbps: float) -> None:
    if bandwidth_kbps not in BANDWIDTHS_KBPS:
        allowed = ", ".join(f"{rate:g}" for rate in BANDWIDTHS_KBPS)
        raise UserError(f"codec bandwidth_kbps: got {bandwidth_kbps}, allowed: {allowed}")


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / "config.json").read_text())
        kind, model = config["kind"], config.get("model", MODEL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"codec: got {directory} without a readable config.json, allowed: a codec directory") from error
    if kind != KIND:
        raise UserError(f"codec: got {directory} of kind {kind}, allowed: {KIND}")
    if model != MODEL:
        raise UserError(f"codec model: got {model}, allowed: {MODEL} (tokens of other models do not decode alone)")
    return config


def _read_weights(directory: Path) -> dict[str, Tensor]:
    packaged = sorted(directory.glob(f"{MODEL}-*.th"))
    file = directory / "model.safetensors"
    try:
        if file.exists() or not packaged:
            return load_file(file)
        # the package's own file is a pickle: only plain tensors are let through
        return torch.load(packaged[0], map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"codec: got {directory} with missing or damaged weights, allowed: model.safetensors"
        ) from error
    except Exception as error:  # pickle.UnpicklingError and its kin
        raise UserError(
            f"codec: got {packaged[0]}, which is no file of plain tensors, allowed: {MODEL}'s own"
        ) from error


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:12]
