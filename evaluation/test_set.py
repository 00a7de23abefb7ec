"""Held-out test clips that are shipped: facts, captions and codec tokens of some hundreds, the sound itself of a few.

    test_clips/clips.parquet     clip_id, tune_id, title, collection, the attributes, notes_per_s, caption, caption_alt,
                                 codes: list<uint16>, K * T in row-major order, the semantic stream first; has_flac
    test_clips/flac/CLIP_ID.flac 16 kHz mono, 16 bit, lossless

Their tunes are in no training set of any model. With them every figure of the model card can be measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from torch import Tensor

from cluster.errors import UserError
from codec.audio import read_audio
from codec.log_mel import SAMPLE_RATE_HZ
from codec.port import Codec
from world.attributes import ATTRIBUTES, Attributes
from world.corpus import Corpus

TABLE, SOUND = "clips.parquet", "flac"
_FACTS = ("clip_id", "tune_id", "title", "collection", *ATTRIBUTES, "notes_per_s", "caption", "caption_alt")


@dataclass(frozen=True)
class TestSet:
    """N clips as tokens, of which the first P as sound."""

    __test__ = False  # no test, whatever its name

    captions: tuple[str, ...]
    attributes: tuple[Attributes, ...]
    codes: Tensor  # [N, K, T] int64
    pcm: Tensor  # [P, samples] float32, 16 kHz

    def __len__(self) -> int:
        return len(self.captions)


def export_test_set(
    corpus: Corpus,
    encode: Callable[[Tensor], Tensor],
    directory: str | Path,
    clips: int = 512,
    flac: int = 40,
    seed: int = 0,
) -> None:
    """Writes `clips` of the corpus's test split, drawn by `seed`, those with sound first.

    encode: pcm [B, 1, N] -> codes [B, K, T] with the semantic stream first (`stream_encoder`).
    """
    split, folder = corpus.split("test"), Path(directory)
    rows = np.random.default_rng((seed, 53)).permutation(len(split))[:clips]
    (folder / SOUND).mkdir(parents=True, exist_ok=True)
    for old in (folder / SOUND).glob("*.flac"):
        old.unlink()
    codes = [encode(split.pcm(rows[start : start + 64])[:, None]) for start in range(0, len(rows), 64)]
    flat = torch.cat(codes).flatten(1).to(torch.int32).numpy().astype(np.uint16)
    table = split.table.select(list(_FACTS)).take(pa.array(rows))
    table = table.append_column("codes", pa.array(list(flat), pa.list_(pa.uint16())))
    table = table.append_column("streams", pa.array([codes[0].shape[1]] * len(rows), pa.int32()))
    table = table.append_column("has_flac", pa.array([place < flac for place in range(len(rows))]))
    pq.write_table(table, folder / TABLE, compression="zstd")
    for clip_id, pcm in zip(table["clip_id"].to_pylist()[:flac], split.pcm(rows[:flac]), strict=True):
        steps = (pcm.numpy() * 32768.0).round().clip(-32768, 32767).astype(np.int16)
        soundfile.write(folder / SOUND / f"{clip_id}.flac", steps, SAMPLE_RATE_HZ, subtype="PCM_16")


def stream_encoder(codec: Codec, semantic: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """pcm [B, 1, N] -> codes [B, 1 + K, T]: semantic tokens above the codec's."""

    def encode(pcm: Tensor) -> Tensor:
        with torch.inference_mode():
            acoustic, top = codec.encode(pcm), semantic(pcm)
        frames = min(acoustic.shape[-1], top.shape[-1])
        return torch.cat([top[..., :frames], acoustic[..., :frames]], dim=1)

    return encode


def load_test_set(directory: str | Path) -> TestSet:
    """Raises UserError where the folder is no exported test set or a sound is missing."""
    folder = Path(directory)
    if not (folder / TABLE).is_file():
        raise UserError(f"test clips: got {folder} without {TABLE}, allowed a folder made by export_test_set")
    table = pq.read_table(folder / TABLE)
    streams = table["streams"][0].as_py()
    codes = np.stack([np.array(row, np.int64).reshape(streams, -1) for row in table["codes"].to_pylist()])
    heard = [row for row, has in enumerate(table["has_flac"].to_pylist()) if has]
    ids = table["clip_id"].to_pylist()
    pcm = np.stack([read_audio(folder / SOUND / f"{ids[row]}.flac")[0][0] for row in heard])
    columns = [table[name].to_pylist() for name in ATTRIBUTES]
    attributes = tuple(dict(zip(ATTRIBUTES, values, strict=True)) for values in zip(*columns, strict=True))
    return TestSet(tuple(table["caption"].to_pylist()), attributes, torch.from_numpy(codes), torch.from_numpy(pcm))
