"""The configurations that audiocraft keeps in its files, and from which its builders make the models."""

from __future__ import annotations

from typing import Any

from codec.musicgen_folder import AUDIOCRAFT, CODEC_FILE, LANGUAGE_FILE, MusicGenFolder, config_of_package
from codec.musicgen_melody import RADIX, seconds_of
from codec.tensor_files import read_torch
from policy.musicgen.model import MusicGen
from policy.musicgen.prompts import T5_NAME


def language_config(policy: MusicGen, source: MusicGenFolder) -> dict[str, Any]:
    """audiocraft's own where the checkpoint brought one, else what its builders ask for."""
    given = config_of_package(read_torch(source.path / LANGUAGE_FILE)) if source.layout == AUDIOCRAFT else {}
    if given.get("transformer_lm"):
        return given
    shapes, stereo = policy.shapes, policy.shapes.audio_channels == 2
    melody, rate_hz = shapes.melody, source.config["audio_encoder"]["sampling_rate"]
    return {
        "solver": "musicgen",
        "device": "cuda",
        "dtype": "float16",
        "sample_rate": rate_hz,
        "channels": shapes.audio_channels,
        "compression_model_checkpoint": "//pretrained/facebook/encodec_32khz",
        "interleave_stereo_codebooks": {"use": stereo, "per_timestep": False},
        "lm_model": "transformer_lm",
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": list(shapes.delays), "flatten_first": 0, "empty_initial": 0},
        },
        "transformer_lm": _transformer_config(policy),
        "classifier_free_guidance": {"training_dropout": 0.2 if melody else 0.3, "inference_coef": 3.0},
        "attribute_dropout": {
            "args": {"active_on_eval": False},
            "text": {},
            "wav": {"self_wav": 0.5} if melody else {},
        },
        "fuser": {
            "cross_attention_pos_emb": False,
            "cross_attention_pos_emb_scale": 1,
            "sum": [],
            "prepend": ["self_wav", "description"] if melody else [],
            "cross": [] if melody else ["description"],
            "input_interpolate": [],
        },
        "conditioners": {
            "args": {},
            **({"self_wav": _chroma_config(policy, rate_hz)} if melody else {}),
            "description": {
                "model": "t5",
                "t5": {
                    "name": T5_NAME,
                    "finetune": False,
                    "word_dropout": 0.2 if melody else 0.3,
                    "normalize_text": False,
                },
            },
        },
        "dataset": {"segment_duration": seconds_of(shapes.chroma_places, rate_hz) if melody else 30, "batch_size": 1},
    }


def _chroma_config(policy: MusicGen, rate_hz: int) -> dict[str, Any]:
    """What hears a melody: carried along for audiocraft, and never asked for here."""
    return {
        "model": "chroma_stem",
        "chroma_stem": {
            "sample_rate": rate_hz,
            "n_chroma": policy.shapes.chroma_bins,
            "radix2_exp": RADIX,
            "argmax": True,
            "match_len_on_eval": True,
            "eval_wavs": None,
            "n_eval_wavs": 100,
            "cache_path": None,
        },
    }


def _transformer_config(policy: MusicGen) -> dict[str, Any]:
    shapes = policy.shapes
    return {
        "dim": shapes.width,
        "num_heads": shapes.heads,
        "num_layers": shapes.layers,
        "hidden_scale": shapes.hidden // shapes.width,
        "n_q": shapes.codebooks,
        "card": shapes.entries,
        "dropout": 0.1,
        "emb_lr": None,
        "activation": "gelu",
        "norm_first": True,
        "bias_ff": False,
        "bias_attn": False,
        "bias_proj": False,
        "past_context": None,
        "causal": True,
        "custom": False,
        "memory_efficient": True,
        "attention_as_float32": False,
        "layer_scale": None,
        "positional_embedding": "sin",
        "xpos": False,
        "checkpointing": "none",
        "weight_init": "gaussian",
        "depthwise_init": "current",
        "zero_bias_init": True,
        "norm": "layer_norm",
        "cross_attention": False,
        "qk_layer_norm": False,
        "qk_layer_norm_cross": False,
        "attention_dropout": None,
        "kv_repeat": 1,
        "two_step_cfg": False,
    }


def codec_config(source: MusicGenFolder) -> dict[str, Any]:
    given = config_of_package(read_torch(source.path / CODEC_FILE)) if source.layout == AUDIOCRAFT else {}
    if given.get("seanet"):
        return given
    audio, shapes = source.config["audio_encoder"], source.shapes
    return {
        "device": "cpu",
        "sample_rate": audio["sampling_rate"],
        "channels": audio["audio_channels"],
        "compression_model": "encodec",
        "encodec": {
            "autoencoder": "seanet",
            "quantizer": "rvq",
            "sample_rate": audio["sampling_rate"],
            "channels": audio["audio_channels"],
            "causal": bool(audio["use_causal_conv"]),
            "renormalize": False,
        },
        "seanet": {
            "dimension": audio["hidden_size"],
            "channels": audio["audio_channels"],
            "causal": bool(audio["use_causal_conv"]),
            "n_filters": audio["num_filters"],
            "n_residual_layers": audio["num_residual_layers"],
            "ratios": list(audio["upsampling_ratios"]),
            "activation": "ELU",
            "activation_params": {"alpha": 1.0},
            "norm": "weight_norm",
            "norm_params": {},
            "kernel_size": audio["kernel_size"],
            "residual_kernel_size": audio["residual_kernel_size"],
            "last_kernel_size": audio["last_kernel_size"],
            "dilation_base": audio["dilation_growth_rate"],
            "pad_mode": audio["pad_mode"],
            "true_skip": not audio["use_conv_shortcut"],
            "compress": audio["compress"],
            "lstm": audio["num_lstm_layers"],
            "disable_norm_outer_blocks": 0,
            "decoder": {
                "trim_right_ratio": audio["trim_right_ratio"],
                "final_activation": None,
                "final_activation_params": None,
            },
            "encoder": {},
        },
        "rvq": {
            "n_q": shapes.codebooks // shapes.audio_channels,
            "q_dropout": False,
            "bins": audio["codebook_size"],
            "decay": 0.99,
            "kmeans_init": True,
            "kmeans_iters": 50,
            "threshold_ema_dead_code": 2,
            "orthogonal_reg_weight": 0.0,
            "orthogonal_reg_active_codes_only": False,
        },
    }
