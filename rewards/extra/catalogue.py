"""The reward models of the field that can be used as rewards, judges or embeddings, and what each of them needs.

Nothing of theirs is shipped or downloaded: weights are a local directory, packages an optional extra. Each may live in
an environment of its own (rewards.environment), so that its versions never touch those of the core.
"""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType

from cluster.errors import UserError
from codec.torchaudio_guard import import_torchaudio


@dataclass(frozen=True)
class Extra:
    """One model. `packages` are installed without their dependencies, `complete` with them."""

    model: str
    title: str
    target: str  # module:Class
    modules: tuple[str, ...]  # that must be importable
    packages: tuple[str, ...]
    complete: tuple[str, ...]
    files: str  # what its directory holds
    score: str
    licence: str  # code; weights


TRANSFORMERS = "transformers>=4.57,<6"

EXTRAS: dict[str, Extra] = {
    extra.model: extra
    for extra in (
        Extra(
            model="clap",
            title="CLAP in transformers' format",
            target="rewards.extra.clap:Clap",
            modules=("transformers",),
            packages=(),
            complete=(TRANSFORMERS,),
            files="config.json, preprocessor_config.json, model.safetensors (or pytorch_model.bin), tokenizer files",
            score="cosine of clip and prompt, -1 to 1",
            licence="Apache-2.0 (transformers); weights of laion: Apache-2.0 by their cards",
        ),
        Extra(
            model="laion_clap",
            title="CLAP as LAION publishes it, such as music_audioset_epoch_15_esc_90.14.pt",
            target="rewards.extra.laion_clap:LaionClap",
            modules=("transformers",),
            packages=(),
            complete=(TRANSFORMERS,),
            files="one *.pt, and roberta-base's tokenizer files",
            score="cosine of clip and prompt, -1 to 1",
            licence="CC0-1.0 (code and weights)",
        ),
        Extra(
            model="muq_mulan",
            title="MuQ-MuLan",
            target="rewards.extra.muq_mulan:MuqMulan",
            modules=("muq", "transformers"),
            packages=("muq==0.1.0", "easydict>=1.10", "x-clip>=0.14,<0.15", "ftfy>=6", "wcwidth", "beartype"),
            complete=("transformers>=4.40,<5", "einops>=0.7"),  # with 5 it gets no hidden states from its encoder
            files="config.json and weights; beside them the inner models, folders named *muq* and *xlm-roberta*",
            score="cosine of clip and prompt, -1 to 1",
            licence="MIT (code); weights CC-BY-NC-4.0: not for commercial use",
        ),
        Extra(
            model="audiobox",
            title="Audiobox Aesthetics",
            target="rewards.extra.audiobox:Audiobox",
            modules=("audiobox_aesthetics", "huggingface_hub"),
            packages=("audiobox_aesthetics==0.0.4",),
            complete=("huggingface_hub>=0.34",),
            files="config.json and model.safetensors, or checkpoint.pt",
            score="about 1 to 10 on one of CE, CU, PC, PQ",
            licence="CC-BY-4.0 (code and weights; parts of the code MIT)",
        ),
    )
}


def missing_modules(extra: Extra) -> list[str]:
    """Which modules of an extra this Python does not have. Imports none of them."""
    return [name for name in extra.modules if importlib.util.find_spec(name) is None]


def check_installed(extra: Extra) -> None:
    """Raises UserError, in one line that says how to install, where a module is missing."""
    missing = missing_modules(extra)
    if missing:
        raise UserError(
            f"model {extra.model}: the package {missing[0]} is not installed; make it an environment with "
            f"`python -m rewards.environment {extra.model} DIR` and set environment=DIR"
        )


def need(module: str, model: str) -> ModuleType:
    """An optional module. Raises UserError where it is missing or cannot be imported."""
    check_installed(EXTRAS[model])
    with suppress(ImportError):  # they import torchaudio where it is installed; its native part may not load here
        import_torchaudio()
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package of other versions than ours can fail in any way
        line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"model {model}: {module} is installed but cannot be imported ({line})") from None
