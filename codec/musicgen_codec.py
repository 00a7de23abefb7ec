"""EnCodec at 32 kHz as MusicGen directories carry it, behind the codec port.

Convolutions come from the `encodec` package; their weight norm is folded into plain weights when they are loaded. A
stereo MusicGen runs the same mono codec once for each side: its even codebooks are left, the odd ones right.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import UserError
from codec import onednn
from codec.audio import resample
from codec.log_mel import SAMPLE_RATE_HZ as MEL_RATE_HZ
from codec.log_mel import log_mel
from codec.musicgen_folder import MusicGenFolder
from codec.musicgen_names import codec_name
from codec.quantizer import nearest
from codec.seanet_decoder import ChannelsLastDecoder
from codec.tensor_files import StoredTensors
from codec.torchaudio_guard import import_encodec

KIND = "musicgen"
_SCALES = {"weight_g": "weight_v", "parametrizations.weight.original0": "parametrizations.weight.original1"}
_ONLY_TRAINING = ("embed_avg", "cluster_size", "inited")  # of a codebook


class MusicGenCodec(nn.Module):
    """`codec.port.Codec`. channels: 1, or 2 for the codes of a stereo MusicGen."""

    codebooks: Tensor

    def __init__(self, config: Mapping[str, Any], channels: int, levels: int) -> None:
        """config: audio_encoder of transformers' layout; levels: codebooks of one channel."""
        super().__init__()
        self.channels = channels
        self.sample_rate_hz = int(config["sampling_rate"])
        ratios = [int(ratio) for ratio in config["upsampling_ratios"]]
        self.hop = int(np.prod(ratios))
        self.frame_rate_hz = self.sample_rate_hz / self.hop
        shapes = _seanet_arguments(config, ratios)
        import_encodec()
        seanet = importlib.import_module("encodec.modules.seanet")
        self.encoder = seanet.SEANetEncoder(**shapes)
        self.decoder = seanet.SEANetDecoder(**shapes, trim_right_ratio=float(config["trim_right_ratio"]))
        entries, width = int(config["codebook_size"]), int(config["codebook_dim"] or config["hidden_size"])
        self.register_buffer("codebooks", torch.zeros(levels, entries, width))  # [K, V, D]
        self.version = ""
        self._on_cpu: ChannelsLastDecoder | None = None  # laid out when it is first used

    @classmethod
    def load(cls, directory: str | Path, field: str = "codec.checkpoint") -> MusicGenCodec:
        """Reads the codec of a MusicGen directory. Raises UserError where it is missing, damaged or of other shapes."""
        folder = MusicGenFolder(directory, field)
        shapes, stored = folder.shapes, folder.codec()
        codec = cls(folder.config["audio_encoder"], shapes.audio_channels, shapes.codebooks // shapes.audio_channels)
        codec.fill(stored, f"{field}: got {str(directory)!r}")
        return codec.eval().requires_grad_(False)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.codebooks.shape[1],) * (len(self.codebooks) * self.channels)

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """pcm [B, C, N] -> codes [B, C K, T], T = ceil(N / 640)."""
        if pcm.ndim != 3 or pcm.shape[1] != self.channels:
            raise ValueError(f"pcm: expected [B, {self.channels}, N], got {tuple(pcm.shape)}")
        residual = self.encoder(pcm.flatten(0, 1)[:, None]).transpose(1, 2)  # [B C, T, D]
        codes = []
        for book in self.codebooks:
            codes.append(nearest(residual, book))
            residual = residual - book[codes[-1]]
        sides = torch.stack(codes, dim=1).unflatten(0, (-1, self.channels))  # [B, C, K, T]
        return sides.transpose(1, 2).flatten(1, 2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes [B, k, T], leading levels (of both sides in stereo) -> pcm [B, C, 640 T] in [-1, 1]."""
        most = len(self.codebook_sizes)
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= most or codes.shape[1] % self.channels:
            raise ValueError(f"codes: expected [B, {self.channels}..{most}, T], got {tuple(codes.shape)}")
        sides = codes.long().unflatten(1, (-1, self.channels)).transpose(1, 2).flatten(0, 1)  # [B C, K, T]
        latent = sum(book[level] for book, level in zip(self.codebooks, sides.unbind(1), strict=False))  # [B C, T, D]
        assert isinstance(latent, Tensor)
        pcm = self._synthesise(latent)
        return pcm.unflatten(0, (-1, self.channels)).clamp(-1.0, 1.0)

    def _synthesise(self, latent: Tensor) -> Tensor:
        """latent [B, T, D] -> pcm [B, N]: what `self.decoder` makes of it."""
        if latent.device.type != "cpu" or not onednn.serves():
            return self.decoder(latent.transpose(1, 2)).squeeze(1)
        if self._on_cpu is None:
            self._on_cpu = ChannelsLastDecoder(self.decoder)
        return self._on_cpu(latent).squeeze(2)

    def decode_log_mel(self, codes: Tensor) -> Tensor:
        """codes [B, k, T] -> log-mel [B, 64, F] of the decoded audio at 16 kHz, the mean of both sides in stereo."""
        pcm = self.decode(codes).mean(1)
        at_16_khz = resample(pcm.cpu().numpy(), self.sample_rate_hz, MEL_RATE_HZ)
        return log_mel(torch.from_numpy(np.ascontiguousarray(at_16_khz)).to(pcm.device))

    def stored_names(self) -> dict[str, str]:
        """transformers' name of each weight, weight norm folded -> its name here, which is the encodec package's."""
        return {codec_name(name): name for name in self.state_dict()}

    def fill(self, stored: StoredTensors, whose: str) -> None:
        """Takes over weights under transformers' names. Raises UserError, beginning with `whose`."""
        names, found = self.stored_names(), plain_tensors(stored)
        own = {stored_name: self.state_dict()[name] for stored_name, name in names.items()}
        for name in sorted(own.keys() ^ found.keys()):
            there = "lacks" if name in own else "has an unknown"
            raise UserError(f"{whose}, whose codec {there} tensor {name!r}; allowed MusicGen's EnCodec")
        for name, tensor in found.items():
            if tensor.shape != own[name].shape:
                shapes = f"{list(tensor.shape)}, allowed {list(own[name].shape)}"
                raise UserError(f"{whose}, whose codec's {name} has shape {shapes}")
            if not tensor.isfinite().all():
                raise UserError(f"{whose}, whose codec's {name} has values that are not finite")
        self.load_state_dict({names[name]: tensor for name, tensor in found.items()})
        self._on_cpu = None
        self.version = _digest(found)


def plain_tensors(stored: StoredTensors) -> dict[str, Tensor]:
    """Weights under transformers' names -> the same with weight norm folded, w = g v / |v|, in float32, and
    the codebooks in one tensor."""
    found: dict[str, Tensor] = {}
    books: dict[int, Tensor] = {}
    for name in stored:
        parts = name.split(".")
        if parts[0] == "quantizer":
            if parts[-1] == "embed":
                books[int(parts[2])] = stored[name].float()
            elif parts[-1] not in _ONLY_TRAINING:
                found[name] = stored[name].float()  # unknown: `fill` says so
            continue
        scale = next((suffix for suffix in _SCALES if name.endswith(suffix)), "")
        if scale:
            stem = name.removesuffix(scale)
            direction = stored[stem + _SCALES[scale]].float()
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.ndim - 1))
            found[stem + "weight"] = direction * (stored[name].float() / norm)
        elif not name.endswith(tuple(_SCALES.values())):
            found[name] = stored[name].float()
    if books:
        found["codebooks"] = torch.stack([books[level] for level in sorted(books)])
    return found


def _seanet_arguments(config: Mapping[str, Any], ratios: list[int]) -> dict[str, Any]:
    """What the encodec package's encoder and decoder both take."""
    return {
        "channels": int(config["audio_channels"]),
        "dimension": int(config["hidden_size"]),
        "n_filters": int(config["num_filters"]),
        "n_residual_layers": int(config["num_residual_layers"]),
        "ratios": ratios,
        "norm": "none",
        "kernel_size": int(config["kernel_size"]),
        "last_kernel_size": int(config["last_kernel_size"]),
        "residual_kernel_size": int(config["residual_kernel_size"]),
        "dilation_base": int(config["dilation_growth_rate"]),
        "causal": bool(config["use_causal_conv"]),
        "pad_mode": str(config["pad_mode"]),
        "true_skip": not config["use_conv_shortcut"],
        "compress": int(config["compress"]),
        "lstm": int(config["num_lstm_layers"]),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()[:12]
