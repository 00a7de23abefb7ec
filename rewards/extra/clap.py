"""CLAP (Wu et al., arXiv 2211.06687) through transformers: does the clip sound like its prompt?

    score = cosine of clip and prompt, in [-1, 1]; a clip over 10 s by the mean over windows of 10 s

The package's own feature extractor crops long clips at random, and its fused models mark a random clip as long. Here a
long clip is read in windows that cover it, every window as a short clip, so a score depends on the clip alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cluster.errors import UserError
from rewards.extra.catalogue import need
from rewards.extra.sound import covering_windows, mono_at, scores_of_finite
from rewards.extra.weights import content_version, device_of, frozen, local_folder, refusing_downloads
from rewards.port import ClipBatch, ClipView

LONGEST_TEXT = 77  # tokens, as the models were trained
CPU_WINDOWS = 4  # at once: of eight, what a layer makes is out of the cache when the next one reads it


class Clap:
    """rewards.port.RewardModel and evaluation's Embedder over a directory in transformers' format."""

    model_name = "clap"
    needs: frozenset[ClipView] = frozenset({"pcm"})
    shift, scale = 0.0, 1.0

    def __init__(self, checkpoint: str, device: str = "auto", batch_size: int = 0) -> None:
        """batch_size: windows at once; 0: 8 on a GPU, on a CPU as many as its caches hold."""
        folder = local_folder(checkpoint, self.model_name)
        self.name, self.device = self.model_name, device_of(device)
        self.batch_size = int(batch_size) or (CPU_WINDOWS if self.device.type == "cpu" else 8)
        transformers = need("transformers", self.model_name)
        transformers.utils.logging.disable_progress_bar()
        with refusing_downloads():
            self.model, self.features, self.tokenizer = self._load(transformers, folder)
        self.model = frozen(self.model, self.device)
        self.version = content_version(folder)
        extractor = self.features
        self.rate_hz, self.window = extractor.sampling_rate, extractor.nb_max_samples
        self.fused = bool(self.model.config.audio_config.enable_fusion)
        filters = extractor.mel_filters if self.fused else extractor.mel_filters_slaney
        self.filters = torch.from_numpy(filters).float().to(self.device)  # [bins, mels]
        self.hann = torch.hann_window(extractor.fft_window_size, device=self.device)

    def _load(self, transformers: Any, folder: Path) -> tuple[Any, Any, Any]:
        """-> model, feature extractor, tokenizer. Raises UserError: missing files, missing weights."""
        try:
            model, found = transformers.ClapModel.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
            features = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the package raises OSError, ValueError, RuntimeError, KeyError and its own
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"{self.model_name} checkpoint: got {folder}, which is no CLAP model ({line})") from None
        lacking = sorted(found["missing_keys"])
        if lacking:
            raise UserError(f"{self.model_name} checkpoint: got {folder} without the weights {lacking[0]}")
        return model, features, load_tokenizer(transformers, folder, self.model_name)

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32 cosines; NaN where a clip holds a sample that is not finite."""
        return scores_of_finite(clips, lambda c: (self._audio(c) * self.embed_prompts(c.prompts)).sum(1))

    def embed(self, clips: ClipBatch) -> np.ndarray:
        """-> [B, D] float32, mean over windows of unit vectors."""
        return scores_of_finite(clips, self._audio)

    def embed_prompts(self, prompts: tuple[str, ...] | list[str]) -> np.ndarray:
        """-> [B, D] float32, unit length. Samples of one prompt stand in a batch together: it is embedded once."""
        different = list(dict.fromkeys(prompts))
        found = []
        for start in range(0, len(different), 64):
            part = different[start : start + 64]
            tokens = self.tokenizer(
                part, padding=True, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode():
                vectors = self.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"])
            found.append(_unit(vectors).cpu().numpy())
        return np.concatenate(found)[[different.index(prompt) for prompt in prompts]]

    def _audio(self, clips: ClipBatch) -> np.ndarray:
        windows = covering_windows(mono_at(clips, self.rate_hz), self.window)  # [B, W, n]
        rows = torch.from_numpy(np.ascontiguousarray(windows.reshape(-1, windows.shape[-1])))
        vectors = torch.cat([self._embed(part) for part in _parts(rows, self.batch_size)])
        return vectors.view(*windows.shape[:2], -1).mean(1).cpu().numpy()

    @torch.inference_mode()
    def _embed(self, samples: Tensor) -> Tensor:
        """[b, n] -> [b, D] unit vectors."""
        spectra = self.log_mel(repeat_and_pad(samples.to(self.device), self.window))
        stacked = spectra[:, None].expand(-1, 4 if self.fused else 1, -1, -1)
        short = torch.zeros(len(samples), 1, dtype=torch.bool, device=self.device)
        return _unit(self.model.get_audio_features(stacked, is_longer=short))

    def log_mel(self, samples: Tensor) -> Tensor:
        """[b, n] -> [b, 1 + n / hop, mels] in dB, equal to the package's feature extractor."""
        size, hop = self.features.fft_window_size, self.features.hop_length
        spectrum = torch.stft(samples, size, hop, window=self.hann, center=True, return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.filters
        return 10.0 * power.clamp_min(1e-10).log10()


def repeat_and_pad(samples: Tensor, length: int) -> Tensor:
    """[b, n] -> [b, length]: the clip as often as it fits whole, then silence ("repeatpad")."""
    repeated = samples.repeat(1, max(1, length // samples.shape[1]))[:, :length]
    return F.pad(repeated, (0, length - repeated.shape[1]))


def load_tokenizer(transformers: Any, folder: Path, model: str) -> Any:
    """The tokenizer whose files lie in the folder. Raises UserError: without them the package makes up an empty one."""
    whole = (folder / "tokenizer.json").is_file() or all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))
    if not whole:
        raise UserError(f"{model} checkpoint: got {folder} without a tokenizer's files (tokenizer.json)")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{model} checkpoint: got {folder} without a tokenizer's files ({line})") from None


def _unit(found: Any) -> Tensor:
    """transformers 5 answers with an object, earlier ones with the vectors."""
    vectors = found if isinstance(found, Tensor) else found.pooler_output
    return F.normalize(vectors.float(), dim=-1)


def _parts(rows: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
