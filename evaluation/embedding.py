"""The space in which sets of clips are compared: any model of the project that places clips in one, by its folder.

`embedding=DIR` takes a text-adherence model or a judge with a space of its own, `embedding=MODEL:DIR` a reward model of
the field (docs/rewards-of-the-field.md). A space that also places prompts gives the CLAP score; a model that answers
questions about a clip is a classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import UserError
from configs.paths import existing_asset
from evaluation.class_divergence import Classifier
from evaluation.judges import LOADERS, Embedder
from rewards.checkpoint import read_config
from rewards.extra.catalogue import EXTRAS
from rewards.registry import load_extra
from rewards.text_adherence import KIND as TEXT_ADHERENCE
from rewards.text_adherence import TextAdherence


def load_model(directory: str, field: str, environment: str = "") -> Any:
    """The model in `directory`, or `MODEL:DIR` of the field. Raises UserError where there is none of a known kind."""
    model, colon, place = directory.partition(":")
    if colon and model in EXTRAS:
        return load_extra(model, existing_asset(place), environment)
    loaders = {TEXT_ADHERENCE: TextAdherence.load, **LOADERS}
    if not Path(directory).is_dir():
        raise UserError(f"{field}: got {directory!r}, allowed the folder of a model")
    kind = str(read_config(directory).get("kind"))
    if kind not in loaders:
        raise UserError(f"{field}: got a model of kind {kind!r} in {directory}, allowed {', '.join(loaders)}")
    return loaders[kind](directory)


def load_embedder(directory: str, field: str = "embedding", environment: str = "") -> Embedder:
    """A model that places clips in a space. Raises UserError."""
    model = load_model(directory, field, environment)
    if not isinstance(model, Embedder):
        raise UserError(f"{field}: got {directory}, which places no clips in a space; assets/tiny/text_adherence does")
    return model


def load_classifier(directory: str, field: str = "classifier") -> Classifier:
    """A model that answers how likely each class is. Raises UserError."""
    model = load_model(directory, field)
    if not isinstance(model, Classifier):
        raise UserError(f"{field}: got {directory}, which has no classes; assets/tiny/judges/attributes does")
    return model


def places_prompts(embedder: Embedder) -> bool:
    """Whether clips can be compared with prompts."""
    return bool(getattr(embedder, "places_prompts", callable(getattr(embedder, "embed_prompts", None))))


def cosines(clips: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Embeddings [N, D] each -> the cosine of each pair [N]."""
    norms = np.linalg.norm(clips, axis=1) * np.linalg.norm(prompts, axis=1)
    return (clips * prompts).sum(1) / np.maximum(norms, 1e-12)
