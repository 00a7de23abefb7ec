"""Writes a MusicGen as transformers reads it: a directory for `from_pretrained`, with all its parts.

Weights are written shard by shard, so that saving takes one shard more than the model. Text encoder and codec, which
are never trained, are carried over from the checkpoint that the policy came from, bit for bit. Among the checkpoints of
one run they are one file with several names (hard links), where the disk knows such.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cluster.errors import RunFailed
from codec.musicgen_folder import CONFIG, MELODY, PLAIN, SAFETENSORS, TRANSFORMERS, MusicGenFolder
from codec.musicgen_melody import RADIX
from codec.tensor_files import StoredTensors, read_safetensors, read_torch_shards
from policy.musicgen.model import FrozenCopy, MusicGen
from policy.musicgen.weights import stored_tensors

SHARD_BYTES = 2_000_000_000
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "added_tokens.json",
)
_FEATURES = "preprocessor_config.json"
GENERATION = "generation_config.json"
ARCHITECTURES = {PLAIN: "MusicgenForConditionalGeneration", MELODY: "MusicgenMelodyForConditionalGeneration"}
LICENCES = ("LICENSE", "LICENSE_weights", "LICENSE.txt", "LICENSE.md")


def save_musicgen(
    policy: MusicGen, directory: str | Path, dtype: torch.dtype = torch.float32, beside: Sequence[Path] | None = None
) -> None:
    """Writes a whole directory in transformers' layout; float32 keeps every bit.

    beside: directories that this policy was saved to before, whose file of frozen parts is linked instead of written
    anew; None: the frozen parts get no file of their own.
    Raises RunFailed where the policy's own checkpoint, which holds the frozen parts, is gone.
    """
    folder, source = Path(directory), source_of(policy)
    folder.mkdir(parents=True, exist_ok=True)
    learning, frozen = learning_tensors(policy, dtype), frozen_tensors(policy, source)
    if beside is None:
        write_shards(folder, chain(learning, frozen))
    else:
        write_shards(folder, learning, last=FrozenFile(policy, frozen, beside))
    write_json(folder / CONFIG, {**model_config(policy, source), "dtype": str(dtype).removeprefix("torch.")})
    tokenizer_home = policy.prompts.source
    for home, names in ((tokenizer_home, TOKENIZER_FILES), (source.path, (_FEATURES, GENERATION, *LICENCES))):
        for name in names:
            if (home / name).is_file() and home.resolve() != folder.resolve():
                shutil.copyfile(home / name, folder / name)
    if not (folder / GENERATION).is_file():
        write_json(folder / GENERATION, generation_config(policy.shapes.entries))
    if not (folder / _FEATURES).is_file():
        write_json(folder / _FEATURES, _feature_config(policy, source))


def source_of(policy: MusicGen) -> MusicGenFolder:
    """The checkpoint that the policy was loaded from. Raises RunFailed where it is gone."""
    if policy.source is None or not policy.source.path.is_dir():
        gone = "none" if policy.source is None else str(policy.source.path)
        raise RunFailed(f"checkpoint: the policy's own directory ({gone}), which holds text encoder and codec, is gone")
    return policy.source


def learning_tensors(policy: MusicGen, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The language model's tensors under transformers' names, each made when it is asked for."""
    for name, tensor in stored_tensors(policy):
        yield name, tensor.detach().to("cpu", dtype, copy=True).contiguous()


def frozen_tensors(policy: MusicGen, source: MusicGenFolder) -> Iterator[tuple[str, Tensor]]:
    """Those of text encoder and codec."""
    text = text_tensors(policy, source)
    for name in text:
        yield f"text_encoder.{name}", text[name].clone()
    audio = source.codec()
    for name in audio:
        yield f"audio_encoder.{name}", audio[name].clone()


class FrozenFile:
    """The last shard of a checkpoint: a link to what this process wrote before, known by its inode, size and time, or
    written anew."""

    def __init__(self, policy: MusicGen, tensors: Iterator[tuple[str, Tensor]], beside: Sequence[Path]) -> None:
        self._policy, self._tensors, self._beside = policy, tensors, beside

    def place(self, path: Path) -> dict[str, int]:
        """Puts it at `path` -> bytes of each tensor in it."""
        known = self._policy.frozen_file
        files = chain.from_iterable(folder.glob("*.safetensors") for folder in self._beside)
        for file in files:
            if known is not None and _mark(file) == known.mark:
                with suppress(OSError):  # a disk without hard links, or with too many of them
                    os.link(file, path)
                    return known.sizes
        tensors = dict(self._tensors)
        save_file(tensors, path, metadata={"format": "pt"})
        sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        self._policy.frozen_file = FrozenCopy(_mark(path), sizes)
        return sizes


def _mark(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def text_tensors(policy: MusicGen, source: MusicGenFolder) -> StoredTensors:
    """T5's encoder, from the checkpoint or from where the policy found it."""
    found = source.text_encoder()
    if found is None:
        home = policy.prompts.source
        found = read_safetensors(home) if (home / SAFETENSORS).is_file() else read_torch_shards(home)
    kept = [name for name in found if name == "shared.weight" or name.startswith("encoder.")]
    return found.renamed({name: name for name in kept if name != "encoder.embed_tokens.weight"})


def text_config(policy: MusicGen, source: MusicGenFolder) -> dict[str, Any]:
    """The configuration of T5."""
    if source.layout == TRANSFORMERS:
        return source.config["text_encoder"]
    return json.loads((policy.prompts.source / CONFIG).read_text(encoding="utf-8"))


def model_config(policy: MusicGen, source: MusicGenFolder) -> dict[str, Any]:
    """config.json without its dtype: the checkpoint's own, or one made from audiocraft's."""
    if source.layout == TRANSFORMERS:
        config = json.loads((source.path / CONFIG).read_text(encoding="utf-8"))
        return {key: value for key, value in config.items() if key != "torch_dtype"}
    entries, melody = policy.shapes.entries, policy.shapes.melody
    kind = MELODY if melody else PLAIN
    decoder = {
        **source.config["decoder"],
        "model_type": f"{kind}_decoder",
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": False,
        "pad_token_id": entries,
        "bos_token_id": entries,
    }
    chroma = {"num_chroma": policy.shapes.chroma_bins, "chroma_length": policy.shapes.chroma_places}
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "is_encoder_decoder": True,
        "text_encoder": text_config(policy, source),
        "audio_encoder": source.config["audio_encoder"],
        "decoder": decoder,
        **(chroma if melody else {}),
    }


def write_shards(
    folder: Path, tensors: Iterator[tuple[str, Tensor]], name: str = SAFETENSORS, last: FrozenFile | None = None
) -> None:
    """One file, or several with an index where they exceed SHARD_BYTES or `last` is one more. What was there before is
    replaced."""
    stem = name.removesuffix(".safetensors")
    shard: dict[str, Tensor] = {}
    places: dict[str, int] = {}
    written, size, total = 0, 0, 0

    def close() -> None:
        nonlocal shard, written, size
        written += 1
        save_file(shard, folder / f"{stem}-{written}.partial", metadata={"format": "pt"})
        shard, size = {}, 0

    for key, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            close()
        shard[key], places[key] = tensor, written + 1
        size, total = size + tensor.nbytes, total + tensor.nbytes
    close()
    if last is not None:
        written += 1
        sizes = last.place(folder / f"{stem}-{written}.partial")
        places |= dict.fromkeys(sizes, written)
        total += sum(sizes.values())
    for old in (*folder.glob(f"{stem}-*.safetensors"), folder / f"{name}.index.json", folder / name):
        old.unlink(missing_ok=True)
    names = [name] if written == 1 else [f"{stem}-{i:05d}-of-{written:05d}.safetensors" for i in range(1, written + 1)]
    for number, final in enumerate(names, start=1):
        partial = folder / f"{stem}-{number}.partial"
        partial.chmod(0o644)  # safetensors makes it readable by its owner only
        partial.rename(folder / final)
    if written > 1:
        index = {key: names[number - 1] for key, number in places.items()}
        write_json(folder / f"{name}.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def generation_config(special: int) -> dict[str, Any]:
    """generation_config.json for a model whose special token is `special`."""
    tokens = dict.fromkeys(("bos_token_id", "pad_token_id", "decoder_start_token_id"), special)
    return {**tokens, "do_sample": True, "guidance_scale": 3.0, "max_length": 1500}


def _feature_config(policy: MusicGen, source: MusicGenFolder) -> dict[str, Any]:
    if policy.shapes.melody:
        return {
            "feature_extractor_type": "MusicgenMelodyFeatureExtractor",
            "processor_class": "MusicgenMelodyProcessor",
            "feature_size": policy.shapes.chroma_bins,
            "num_chroma": policy.shapes.chroma_bins,
            "sampling_rate": source.config["audio_encoder"]["sampling_rate"],
            "padding_value": 0.0,
            "return_attention_mask": False,
            "chunk_length": 30,
            "hop_length": 2**RADIX // 4,
            "n_fft": 2**RADIX,
            "stem_indices": [3, 2],
        }
    return {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "processor_class": "MusicgenProcessor",
        "feature_size": policy.shapes.audio_channels,
        "sampling_rate": source.config["audio_encoder"]["sampling_rate"],
        "padding_side": "left",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "chunk_length_s": None,
        "overlap": None,
    }


def write_json(path: Path, value: Any) -> None:
    """Sorted and indented."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
