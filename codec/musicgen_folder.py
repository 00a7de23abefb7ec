"""A directory that holds a MusicGen checkpoint, in transformers' layout or in audiocraft's, read as one and the same.

    transformers   config.json (model_type musicgen or musicgen_melody), model.safetensors or pytorch_model.bin, or
                   shards of either
    audiocraft     state_dict.bin (language model), compression_state_dict.bin (codec)

Whatever the layout, tensors are offered under the names of transformers' layout, and the configuration has its form.
What cannot be used is refused by name, in one line, before a tensor is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from cluster.errors import UserError
from codec import musicgen_melody
from codec.musicgen_names import codec_name, language_tensors
from codec.musicgen_shapes import MusicGenShapes

if TYPE_CHECKING:  # a folder in transformers' layout is described without torch
    from torch import Tensor

    from codec.tensor_files import StoredTensors

TRANSFORMERS, AUDIOCRAFT = "transformers", "audiocraft"
PLAIN, MELODY = "musicgen", "musicgen_melody"  # model_type
CONFIG, LANGUAGE_FILE, CODEC_FILE = "config.json", "state_dict.bin", "compression_state_dict.bin"
SAFETENSORS, TORCH_BIN = "model.safetensors", "pytorch_model.bin"
LICENCE = "Meta's weights, and what is tuned from them, are CC-BY-NC 4.0: not for commercial use"
_LOOSE = ("*.th", "*.ckpt", "*.pt")  # what fine-tuning programs write: one file with audiocraft's tensor names
_OTHER_TYPES = {
    "musicgen_decoder": "MusicGen's decoder alone, without text encoder and codec",
    "musicgen_melody_decoder": "MusicGen-Melody's decoder alone, without text encoder and codec",
    "audiogen": "AudioGen",
    "encodec": "EnCodec alone",
    "t5": "T5 alone",
}
CODEC_DEFAULTS = {  # of encodec_32khz, the codec of every MusicGen
    "model_type": "encodec",
    "sampling_rate": 32_000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "overlap": None,
    "hidden_size": 128,
    "codebook_dim": 128,
    "codebook_size": 2048,
    "num_filters": 64,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 5, 4, 4],
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": False,
    "pad_mode": "reflect",
    "compress": 2,
    "num_lstm_layers": 2,
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "target_bandwidths": [2.2],
}
_SEANET_KEYS = {
    "dimension": "hidden_size",
    "n_filters": "num_filters",
    "n_residual_layers": "num_residual_layers",
    "ratios": "upsampling_ratios",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "causal": "use_causal_conv",
    "pad_mode": "pad_mode",
    "compress": "compress",
    "lstm": "num_lstm_layers",
}


def is_musicgen_folder(path: str | Path) -> bool:
    """Whether a directory is one of these, whole or not; a folder of this project's own kinds is none."""
    folder = Path(path)
    if (folder / LANGUAGE_FILE).is_file() or (folder / CODEC_FILE).is_file():
        return True
    if (folder / CONFIG).is_file():
        config = _json(folder / CONFIG)
        return config is not None and "kind" not in config and "model_type" in config
    return folder.is_dir() and len(_loose_files(folder)) == 1


def weight_files(path: str | Path) -> list[Path]:
    """The files that hold a MusicGen directory's weights and configuration, sorted."""
    patterns = (CONFIG, "*.safetensors", "*.bin", *_LOOSE)
    return sorted(file for pattern in patterns for file in Path(path).glob(pattern))


class MusicGenFolder:
    """field: the setting that named it, for error lines.

    Raises UserError for anything but a MusicGen checkpoint with known parts.
    """

    def __init__(self, path: str | Path, field: str = "policy.checkpoint") -> None:
        self.path, self.field = Path(path), field
        if not self.path.is_dir():
            found = "which is a file" if self.path.exists() else "which does not exist"
            self._refuse(f"{found}; allowed a directory with a MusicGen checkpoint")
        config = _json(self.path / CONFIG) if (self.path / CONFIG).is_file() else None
        weights = [name for name in (SAFETENSORS, TORCH_BIN) if self._has(name)]
        in_transformers = config is not None and "model_type" in config and bool(weights)
        self.layout = TRANSFORMERS if in_transformers or not self._language_file else AUDIOCRAFT
        if self.layout == TRANSFORMERS:
            self._weights_name = weights[0] if weights else ""
            self.config = self._check_transformers(config)
        else:
            self.config = self._audiocraft_config()

    # ---- what it is -------------------------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> MusicGenShapes:
        """Raises UserError where the configuration lacks a number or names an unknown variant."""
        decoder, audio, text = (self.config[part] for part in ("decoder", "audio_encoder", "text_encoder"))
        try:
            rate_hz = audio["sampling_rate"] / math.prod(audio["upsampling_ratios"])
            return MusicGenShapes(
                width=int(decoder["hidden_size"]),
                layers=int(decoder["num_hidden_layers"]),
                heads=int(decoder["num_attention_heads"]),
                hidden=int(decoder["ffn_dim"]),
                codebooks=int(decoder["num_codebooks"]),
                entries=int(decoder["vocab_size"]),
                text_width=int(text["d_model"]),
                audio_channels=int(decoder["audio_channels"]),
                positions=int(decoder["max_position_embeddings"]),
                frame_rate_hz=rate_hz,
                project_text=bool(self.config.get("project_text", text["d_model"] != decoder["hidden_size"])),
                chroma_places=int(self.config["chroma_length"]) if self._melody else 0,
                chroma_bins=int(self.config["num_chroma"]) if self._melody else 0,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            self._refuse(f"whose configuration lacks or garbles {error}")

    @property
    def _melody(self) -> bool:
        return self.config["model_type"] == MELODY

    # ---- its tensors, under transformers' names ---------------------------------------------------------------------

    def language(self) -> StoredTensors:
        """decoder.…, enc_to_dec_proj.… and, of a MusicGen-Melody, audio_enc_to_dec_proj.…"""
        if self.layout == AUDIOCRAFT:
            return self._audiocraft_language
        others = ("text_encoder.", "audio_encoder.")
        return self._all.renamed({name: name for name in self._all if not name.startswith(others)})

    def text_encoder(self) -> StoredTensors | None:
        """T5's tensors; None where the checkpoint does not bring them (audiocraft's never does)."""
        return None if self.layout == AUDIOCRAFT else self._all.below("text_encoder.")

    def codec(self) -> StoredTensors:
        """EnCodec's tensors. Raises UserError where the directory holds none."""
        if self.layout == TRANSFORMERS:
            return self._all.below("audio_encoder.")
        from codec.tensor_files import StoredTensors

        state = self._compression.get("best_state")
        if not isinstance(state, dict):
            pretrained = self._compression.get("pretrained", "no codec")
            self._refuse(
                f"whose {CODEC_FILE} names {pretrained} instead of holding it; "
                "set codec.checkpoint to a MusicGen directory that holds it"
            )
        stored = StoredTensors.of(state, str(self.path / CODEC_FILE))
        return stored.renamed({codec_name(name): name for name in stored})

    @cached_property
    def _all(self) -> StoredTensors:
        from codec.tensor_files import read_safetensors, read_torch_shards

        read = read_safetensors if self._weights_name == SAFETENSORS else read_torch_shards
        return read(self.path, self._weights_name)

    # ---- transformers -----------------------------------------------------------------------------------------------

    def _check_transformers(self, config: dict[str, Any] | None) -> dict[str, Any]:
        if (self.path / "adapter_config.json").is_file():
            self._refuse("which holds an adapter (PEFT) alone; merge it into its base model first")
        if config is None:
            self._refuse(f"without a readable {CONFIG} or {LANGUAGE_FILE}; allowed a MusicGen checkpoint")
        kind = config.get("model_type")
        if kind not in (PLAIN, MELODY):
            named = _OTHER_TYPES.get(str(kind), f"a model of type {kind!r}")
            self._refuse(f"which is {named}; allowed MusicGen")
        for part in ("decoder", "text_encoder", "audio_encoder"):
            if not isinstance(config.get(part), dict):
                self._refuse(f"whose {CONFIG} lacks {part}; allowed a MusicGen checkpoint")
        if not self._weights_name:
            self._refuse(f"without {SAFETENSORS} or {TORCH_BIN}; allowed a whole MusicGen checkpoint")
        audio = {**CODEC_DEFAULTS, **config["audio_encoder"]}
        decoder = {"audio_channels": 1, "max_position_embeddings": 2048, **config["decoder"]}
        self._check_decoder(decoder)
        self._check_codec(audio, decoder["audio_channels"])
        chroma = {"num_chroma": musicgen_melody.CHROMA_BINS, "chroma_length": musicgen_melody.CHROMA_PLACES}
        whole = {**(chroma if kind == MELODY else {}), **config, "audio_encoder": audio, "decoder": decoder}
        least = musicgen_melody.LEAST_CHROMA_PLACES
        if kind == MELODY and _plain_number(whole["chroma_length"]) < least:
            self._refuse(f"whose chroma_length is {whole['chroma_length']!r}; allowed at least {least}")
        return whole

    def _check_decoder(self, decoder: Mapping[str, Any]) -> None:
        allowed = {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": False}
        for key, value in allowed.items():
            if decoder.get(key, value) != value:
                self._refuse(f"whose decoder has {key}={decoder[key]!r}; allowed {value!r}")
        if decoder["audio_channels"] not in (1, 2):
            self._refuse(f"with {decoder['audio_channels']} audio channels; allowed 1 or 2")

    def _check_codec(self, audio: Mapping[str, Any], channels: int) -> None:
        if audio["sampling_rate"] == 16_000:
            self._refuse("which is AudioGen (16 kHz); allowed MusicGen (32 kHz)")
        if audio["model_type"] != "encodec" or audio["normalize"] or audio["chunk_length_s"]:
            self._refuse("whose codec is not EnCodec of one piece, as MusicGen's is")
        if audio["audio_channels"] != 1:
            self._refuse(f"whose codec has {audio['audio_channels']} channels; allowed 1, used once for each side")

    # ---- audiocraft -------------------------------------------------------------------------------------------------

    @cached_property
    def _language_file(self) -> Path | None:
        if (self.path / LANGUAGE_FILE).is_file():
            return self.path / LANGUAGE_FILE
        loose = _loose_files(self.path)
        return loose[0] if len(loose) == 1 else None

    @property
    def _package_name(self) -> str:
        return self._language_file.name if self._language_file else LANGUAGE_FILE

    @cached_property
    def _package(self) -> dict[str, Any]:
        from codec.tensor_files import read_torch

        assert self._language_file is not None
        content = read_torch(self._language_file)
        return content if isinstance(content, dict) else {}

    @cached_property
    def _compression(self) -> dict[str, Any]:
        from codec.tensor_files import read_torch

        if not (self.path / CODEC_FILE).is_file():
            return {}
        content = read_torch(self.path / CODEC_FILE)
        return content if isinstance(content, dict) else {}

    @cached_property
    def _audiocraft_language(self) -> StoredTensors:
        from codec.tensor_files import StoredTensors

        assert self._language_file is not None
        renamed: dict[str, Tensor] = {}
        for name, tensor in self._audiocraft_state.items():
            renamed |= language_tensors(name, tensor)
        return StoredTensors.of(renamed, str(self._language_file))

    @cached_property
    def _audiocraft_state(self) -> dict[str, Tensor]:
        """The language model's tensors, wherever the file keeps them, under audiocraft's names."""
        state: Any = self._package
        for key in ("best_state", "model", "state_dict"):
            inner = state.get(key)
            if isinstance(inner, dict) and inner:
                state = inner
        first = next((name for name in state if str(name).endswith("emb.0.weight")), None)
        if first is None:
            held = ", ".join(sorted(map(str, state))[:3]) or "nothing"
            self._refuse(f"whose {self._package_name} holds no language model ({held})")
        prefix = first.removesuffix("emb.0.weight")
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    def _audiocraft_config(self) -> dict[str, Any]:
        given = config_of_package(self._package)
        self._check_audiocraft(given)
        shapes = {name: tuple(tensor.shape) for name, tensor in self._audiocraft_state.items()}
        layers = 1 + max(
            (int(m[1]) for m in map(re.compile(r"transformer\.layers\.(\d+)\.").match, shapes) if m), default=-1
        )
        books = sum(1 for name in shapes if re.fullmatch(r"emb\.\d+\.weight", name))
        entries, width = shapes["emb.0.weight"]
        hidden = shapes.get("transformer.layers.0.linear1.weight", (4 * width,))[0]
        proj = shapes.get("condition_provider.conditioners.description.output_proj.weight")
        lm = given.get("transformer_lm") or {}
        channels = 2 if _plain_number(given.get("interleave_stereo_codebooks", {}).get("use")) or books == 8 else 1
        audio = self._audiocraft_codec_config(books // channels)
        self._check_codec(audio, channels)
        config: dict[str, Any] = {
            "model_type": MELODY if self._hears_melodies(given) else PLAIN,
            "decoder": {
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": _plain_number(lm.get("num_heads")) or max(1, width // 64),
                "ffn_dim": hidden,
                "num_codebooks": books,
                "vocab_size": entries - 1,
                "audio_channels": channels,
                "max_position_embeddings": 2048,
            },
            "text_encoder": {"d_model": proj[1] if proj else width},
            "audio_encoder": audio,
            "project_text": proj is not None,
        }
        if config["model_type"] == MELODY:
            config["num_chroma"] = shapes.get(musicgen_melody.PROJECTION, (width, musicgen_melody.CHROMA_BINS))[1]
            config["chroma_length"] = musicgen_melody.chroma_places(given, audio["sampling_rate"])
        return config

    def _hears_melodies(self, given: Mapping[str, Any]) -> bool:
        return musicgen_melody.PROJECTION in self._audiocraft_state or "chroma_stem" in _conditioner_models(given)

    def _check_audiocraft(self, given: Mapping[str, Any]) -> None:
        """Refuses by name what shares the layout and is no MusicGen."""
        models = _conditioner_models(given)
        if "style" in models or any(".style" in name or "self_wav.rvq" in name for name in self._audiocraft_state):
            self._refuse("which is MusicGen-Style; its style conditioner is not supported")
        if _plain_number(given.get("sample_rate")) == 16_000:
            self._refuse("which is AudioGen (16 kHz); allowed MusicGen (32 kHz)")
        if self._hears_melodies(given) and (why := musicgen_melody.why_not(given)):
            self._refuse(why)
        if others := sorted(models - {"t5", "chroma_stem"}):
            self._refuse(f"with a conditioner of kind {others[0]!r}; allowed t5 and chroma_stem")
        if given.get("lm_model", "transformer_lm") != "transformer_lm":
            self._refuse(f"whose lm_model is {given['lm_model']!r} (MAGNeT or other); allowed transformer_lm")
        pattern = (given.get("codebooks_pattern") or {}).get("modeling", "delay")
        if pattern != "delay":
            self._refuse(f"with the codebook pattern {pattern!r}; allowed delay")
        lm = given.get("transformer_lm") or {}
        allowed = {"norm_first": True, "positional_embedding": "sin", "activation": "gelu"}
        allowed |= dict.fromkeys(("bias_proj", "bias_ff", "bias_attn", "qk_layer_norm"), False)
        for key, value in allowed.items():
            if lm.get(key, value) != value:
                self._refuse(f"whose transformer_lm.{key} is {lm[key]!r}; allowed {value!r}")

    def _audiocraft_codec_config(self, levels: int) -> dict[str, Any]:
        audio: dict[str, Any] = dict(CODEC_DEFAULTS)
        given = config_of_package(self._compression)
        seanet = given.get("seanet") or {}
        for theirs, ours in _SEANET_KEYS.items():
            if seanet.get(theirs) is not None and not str(seanet[theirs]).startswith("$"):
                audio[ours] = seanet[theirs]
        state = self._compression.get("best_state")
        if isinstance(state, dict):
            books = [name for name in state if name.endswith("_codebook.embed")]
            if books:
                audio["codebook_size"], audio["codebook_dim"] = (int(n) for n in state[books[0]].shape)
                levels = len(books)
        audio["sampling_rate"] = _plain_number(given.get("sample_rate")) or audio["sampling_rate"]
        audio["use_conv_shortcut"] = not seanet.get("true_skip", True)
        audio["normalize"] = bool((given.get("encodec") or {}).get("renormalize", False))
        frames = -(-audio["sampling_rate"] // math.prod(audio["upsampling_ratios"]))
        bits = (audio["codebook_size"] - 1).bit_length()
        audio["target_bandwidths"] = [levels * frames * bits / 1000]
        return audio

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file() or (self.path / f"{name}.index.json").is_file()

    def _refuse(self, why: str) -> NoReturn:
        raise UserError(f"{self.field}: got {str(self.path)!r}, {why}")


def config_of_package(package: Mapping[str, Any]) -> dict[str, Any]:
    """`xp.cfg` of one of audiocraft's files: text or tree -> tree; empty where it has none."""
    given = package.get("xp.cfg")
    if isinstance(given, str):
        try:
            given = yaml.safe_load(given)
        except yaml.YAMLError:
            given = None
    return given if isinstance(given, dict) else {}


def _conditioner_models(given: Mapping[str, Any]) -> set[str]:
    conditioners = given.get("conditioners") or {}
    return {str(c.get("model")) for c in conditioners.values() if isinstance(c, dict) and "model" in c}


def _loose_files(folder: Path) -> list[Path]:
    return sorted(path for pattern in _LOOSE for path in folder.glob(pattern)) if folder.is_dir() else []


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _plain_number(value: Any) -> int:
    """A number of a YAML file; 0 where there is none or it refers to another key."""
    return int(value) if isinstance(value, (int, float)) else 0
