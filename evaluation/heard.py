"""What models hear in the audio files of a folder: embeddings and class probabilities, clip by clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.errors import UserError
from codec.audio import mix_to_mono, read_audio
from codec.audio_list import AudioFile, Problem
from evaluation.class_divergence import Classifier
from evaluation.clips import pcm_views
from evaluation.judges import Embedder

MOST_ALIKE = 16  # clips of one length and rate that a model gets at once
SHORTEST_S = 0.1

Progress = Callable[[int, int], None]


@dataclass
class Heard:
    """N clips under the models that were asked; row n belongs to files[n]."""

    files: list[AudioFile] = field(default_factory=list)
    embeddings: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # [N, D]
    classes: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # [N, M]
    problems: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def rows_by_name(self) -> dict[str, int]:
        """File name without ending -> row; of equal names the first."""
        return {file.name: row for row, file in reversed(list(enumerate(self.files)))}


def hear(
    files: Sequence[AudioFile],
    embedder: Embedder | None,
    classifier: Classifier | None,
    seconds: float = 0.0,
    progress: Progress | None = None,
) -> Heard:
    """Reads every file and asks the models. `seconds` > 0: of a longer clip only so much, from its beginning.

    A file that breaks while it is read, or that a model gives no finite answer on, is listed and left out.
    """
    found, embedded, classed = Heard(), [], []
    done = 0
    for batch, pcm, rate_hz in _batches(files, seconds, found.problems):
        views = pcm_views([file.caption for file in batch], pcm, rate_hz)
        places = embedder.embed(views) if embedder else np.zeros((len(batch), 0), np.float32)
        classes = classifier.class_probabilities(views) if classifier else np.zeros((len(batch), 0), np.float32)
        whole: np.ndarray = np.logical_and(np.isfinite(places).all(1), np.isfinite(classes).all(1))
        for file, good in zip(batch, whole, strict=True):
            if good:
                found.files.append(file)
            else:
                found.problems.append(Problem(file.path, "the model gave no finite answer"))
        embedded.append(places[whole])
        classed.append(classes[whole])
        done += len(batch)
        if progress is not None:
            progress(done, len(files))
    if embedded:
        found.embeddings, found.classes = np.concatenate(embedded), np.concatenate(classed)
    return found


def _batches(
    files: Sequence[AudioFile], seconds: float, problems: list[Problem]
) -> Iterator[tuple[list[AudioFile], np.ndarray, int]]:
    """Neighbours of one rate and length together: (files, mono pcm [B, 1, N], rate)."""
    batch: list[AudioFile] = []
    sounds: list[np.ndarray] = []
    rate_before = 0
    for file in files:
        try:
            pcm, rate_hz = read_audio(file.path)
        except UserError as error:
            problems.append(Problem(file.path, str(error)))
            continue
        pcm = mix_to_mono(pcm)[:, : round(seconds * rate_hz) if seconds else None]
        if pcm.shape[1] < SHORTEST_S * rate_hz:
            problems.append(Problem(file.path, f"shorter than {SHORTEST_S:g} s"))
            continue
        alike = bool(batch) and rate_hz == rate_before and pcm.shape == sounds[0].shape
        if batch and (not alike or len(batch) == MOST_ALIKE):
            yield batch, np.stack(sounds), rate_before
            batch, sounds = [], []
        batch.append(file)
        sounds.append(pcm)
        rate_before = rate_hz
    if batch:
        yield batch, np.stack(sounds), rate_before
