"""A MusicGen directory with random weights, of any size: the true format, to try things on without weights.

    python -m policy.musicgen.random_checkpoint out=DIR [kind=melody] [width=64] [layers=3] [heads=4] [stereo=true]

It plays noise. Its tokenizer knows common words of music captions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from cluster.errors import UserError
from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import CODEC_DEFAULTS, CONFIG, MELODY, PLAIN
from codec.musicgen_melody import CHROMA_BINS, CHROMA_PLACES
from codec.musicgen_shapes import MusicGenShapes
from configs.command_line import exit_status_of, parse_settings
from policy.musicgen.model import MusicGen
from policy.musicgen.prompts import TOKENIZER
from policy.musicgen.save import ARCHITECTURES, GENERATION, generation_config, write_json, write_shards
from policy.musicgen.weights import stored_tensors
from policy.text import MUSIC_WORDS

KINDS = {"musicgen": PLAIN, "melody": MELODY}
SPECIAL = ("<pad>", "</s>", "<unk>")
HEAD_WIDTH_T5 = 8


@dataclass(frozen=True)
class RandomShapes:
    """What to make. kind: musicgen or melody, a MusicGen-Melody whose chroma takes chroma_places; entries: of each
    codebook, a power of 2; filters: of the codec's first convolution."""

    out: str = ""
    width: int = 32
    layers: int = 2
    heads: int = 2
    entries: int = 64
    stereo: bool = False
    text_width: int = 24
    text_layers: int = 2
    filters: int = 2
    spread: float = 0.15  # standard deviation of the decoder's weights
    seed: int = 0
    kind: str = "musicgen"
    chroma_places: int = CHROMA_PLACES


def write_random(directory: str | Path, shapes: RandomShapes | None = None) -> Path:
    """Writes the directory in transformers' layout -> its path. The same shapes and seed give the same files."""
    chosen, folder = shapes or RandomShapes(), Path(directory)
    if chosen.entries & (chosen.entries - 1) or chosen.width % chosen.heads:
        raise UserError("random checkpoint: got shapes that do not fit: entries is a power of 2, heads divides width")
    if chosen.kind not in KINDS:
        raise UserError(f"kind: got {chosen.kind!r}, allowed {', '.join(KINDS)}")
    folder.mkdir(parents=True, exist_ok=True)
    channels = 2 if chosen.stereo else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        config = _config(chosen, channels)
        write_shards(folder, _tensors(chosen, config, channels))
    write_json(folder / CONFIG, config)
    write_json(folder / GENERATION, generation_config(chosen.entries))
    _tokenizer().save(str(folder / TOKENIZER))
    return folder


def _config(chosen: RandomShapes, channels: int) -> dict[str, Any]:
    special, kind = chosen.entries, KINDS[chosen.kind]
    bits = (chosen.entries - 1).bit_length()
    audio = {
        "codebook_size": chosen.entries,
        "hidden_size": 16,
        "codebook_dim": 16,
        "num_filters": chosen.filters,
        "target_bandwidths": [4 * 50 * bits / 1000],
    }
    text = {
        "model_type": "t5",
        "vocab_size": len(_words()),
        "d_model": chosen.text_width,
        "d_kv": HEAD_WIDTH_T5,
        "d_ff": 2 * chosen.text_width,
        "num_layers": chosen.text_layers,
        "num_heads": max(1, chosen.text_width // HEAD_WIDTH_T5),
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    decoder = {
        "model_type": f"{kind}_decoder",
        "vocab_size": chosen.entries,
        "max_position_embeddings": 2048,
        "num_hidden_layers": chosen.layers,
        "ffn_dim": 4 * chosen.width,
        "num_attention_heads": chosen.heads,
        "hidden_size": chosen.width,
        "num_codebooks": 4 * channels,
        "audio_channels": channels,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": False,
        "pad_token_id": special,
        "bos_token_id": special,
    }
    chroma = {"num_chroma": CHROMA_BINS, "chroma_length": chosen.chroma_places} if kind == MELODY else {}
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "is_encoder_decoder": True,
        "dtype": "float32",
        "text_encoder": text,
        "audio_encoder": {**CODEC_DEFAULTS, **audio},
        "decoder": decoder,
        **chroma,
    }


def _tensors(chosen: RandomShapes, config: dict[str, Any], channels: int) -> Iterator[tuple[str, Tensor]]:
    yield from _decoder_tensors(chosen, channels)
    yield from (("text_encoder." + name, tensor) for name, tensor in _t5_tensors(config["text_encoder"]))
    yield from (("audio_encoder." + name, tensor) for name, tensor in _codec_tensors(config["audio_encoder"]))


def _decoder_tensors(chosen: RandomShapes, channels: int) -> Iterator[tuple[str, Tensor]]:
    shapes = MusicGenShapes(
        width=chosen.width,
        layers=chosen.layers,
        heads=chosen.heads,
        hidden=4 * chosen.width,
        codebooks=4 * channels,
        entries=chosen.entries,
        text_width=chosen.text_width,
        audio_channels=channels,
        project_text=chosen.text_width != chosen.width,
        chroma_places=chosen.chroma_places if chosen.kind == "melody" else 0,
        chroma_bins=CHROMA_BINS if chosen.kind == "melody" else 0,
    )
    policy = MusicGen(shapes, prompts=None)  # type: ignore[arg-type]  # its tensors only
    for name, tensor in stored_tensors(policy):
        centre = 1.0 if "norm.weight" in name else 0.0
        yield name, centre + chosen.spread * torch.randn(tensor.shape)


def _t5_tensors(config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    yield "shared.weight", torch.randn(config["vocab_size"], width)
    yield "encoder.final_layer_norm.weight", torch.ones(width)
    for layer in range(config["num_layers"]):
        at = f"encoder.block.{layer}.layer."
        for part in "qkv":
            yield f"{at}0.SelfAttention.{part}.weight", 0.2 * torch.randn(inner, width)
        yield f"{at}0.SelfAttention.o.weight", 0.2 * torch.randn(width, inner)
        if layer == 0:
            yield f"{at}0.SelfAttention.relative_attention_bias.weight", torch.randn(32, config["num_heads"])
        yield f"{at}0.layer_norm.weight", 1 + 0.1 * torch.randn(width)
        yield f"{at}1.DenseReluDense.wi.weight", 0.2 * torch.randn(hidden, width)
        yield f"{at}1.DenseReluDense.wo.weight", 0.2 * torch.randn(width, hidden)
        yield f"{at}1.layer_norm.weight", 1 + 0.1 * torch.randn(width)


def _codec_tensors(config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    codec = MusicGenCodec(config, channels=1, levels=4)
    for stored, name in codec.stored_names().items():
        tensor = codec.state_dict()[name]
        if name == "codebooks":
            for level in range(len(tensor)):
                at, book = f"quantizer.layers.{level}.codebook.", torch.randn(tensor.shape[1:])
                yield from ((at + "embed", book), (at + "embed_avg", book.clone()))
                yield from ((at + "cluster_size", torch.ones(len(book))), (at + "inited", torch.ones(1)))
        elif name.endswith(("conv.weight", "convtr.weight")):
            stem = stored.removesuffix("weight")
            yield stem + "weight_v", tensor
            yield stem + "weight_g", 1.5 * tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
        else:
            yield stored, tensor


def _words() -> list[str]:
    return [*SPECIAL, *sorted(set(MUSIC_WORDS.split()) | {"a", "the", "and", "with", "of"})]


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_words())}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help", "help") for word in words):
        print(__doc__)
        return 0
    return exit_status_of(lambda: _write(words))


def _write(words: Sequence[str]) -> None:
    chosen = parse_settings(words, RandomShapes())
    if not chosen.out:
        raise UserError("out: got nothing, allowed a new directory")
    print(f"random weights: {write_random(chosen.out, chosen)}")


if __name__ == "__main__":
    sys.exit(main())
