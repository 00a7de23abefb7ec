"""`python -m evaluation.main field REFERENCE GENERATED [key=value …]`: the measures that the field reports.

REFERENCE, GENERATED: a folder of audio, an audiocraft manifest (.jsonl), or embeddings (.npy, [N, D]). Prints, and with
out=DIR writes, with 95 % intervals:

    FAD, FAD-inf, KAD   distances between the two sets in the space of `embedding`; smaller is nearer
    CLAP score          mean cosine of generated clips and their captions, where the space places prompts too
    KL                  between a classifier's answers to clips of the same file name, with classifier=DIR

Absolute values compare only within one embedding, one reference and one length of clips: published figures (FAD with
VGGish, KL with PaSST) are other spaces. What cannot be read is listed with its file; the rest is measured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import UserError
from cluster.storage import write_bytes_atomic, write_text_atomic
from codec.audio_list import AudioList, Problem, list_audio
from configs.command_line import exit_status_of, parse_settings
from configs.paths import existing_asset
from configs.setting import meaning_of, setting

if TYPE_CHECKING:
    from evaluation.class_divergence import Classifier
    from evaluation.field_measures import Measure
    from evaluation.heard import Heard
    from evaluation.judges import Embedder

SHOWN_PROBLEMS = 10
FEWEST = 2


@dataclass(frozen=True)
class FieldSettings:
    """key=value of the command; `musiccaps` has the same and more."""

    embedding: str = setting(
        "assets/tiny/text_adherence", "folder of the model in whose space sets are compared, or MODEL:DIR"
    )
    environment: str = setting("", "virtual environment that an embedding MODEL:DIR runs in; empty: this one")
    classifier: str = setting("", "folder of the model whose answers KL compares; empty: no KL")
    captions: str = setting("", "CSV, JSON, JSONL or Parquet of the generated clips; empty: what lies beside them")
    seconds: float = setting(0.0, "taken of each clip, from its beginning; 0: all of it", at_least=0, at_most=3600)
    bandwidth: float = setting(0.0, "of KAD's kernel; 0: the median distance in the reference", at_least=0)
    resamples: int = setting(200, "of the intervals", at_least=20, at_most=100_000)
    threads: int = setting(1, "torch threads", at_least=1)
    out: str = setting("", "folder for field.json, problems.txt and the embeddings; empty: none")


@dataclass(frozen=True)
class Side:
    """One of the two sets: heard files, or embeddings that were given."""

    heard: Heard | None
    embeddings: np.ndarray
    problems: tuple[Problem, ...] = ()


def main(argv: Sequence[str]) -> int:
    """-> exit status: 0, 2 with one line for input that cannot be used, 130 when interrupted."""
    if len(argv) < 2 or argv[0] in ("-h", "--help", "help"):
        print(usage(__doc__ or "", FieldSettings))
        return 0 if argv and argv[0] in ("-h", "--help", "help") else 2
    reference, generated, *words = argv

    def work() -> None:
        settings = parse_settings(words, FieldSettings())
        report(measure_sides(reference, generated, settings), settings)

    return exit_status_of(work, "interrupted: nothing was written")


def usage(text: str, settings: type) -> str:
    """The module's own words and every key with its default and meaning."""
    rows = [f"    {field.name}={field.default}".ljust(46) + meaning_of(field) for field in fields(settings)]
    return "\n".join([text.strip(), "", *rows])


@dataclass(frozen=True)
class FieldResult:
    """What was measured, in what, on what."""

    measures: tuple[Measure, ...]
    embedding: str
    reference: Side
    generated: Side
    more: dict[str, Any]


def measure_sides(
    reference: str | Path | AudioList,
    generated: str | Path | AudioList,
    settings: FieldSettings,
    more: dict[str, Any] | None = None,
) -> FieldResult:
    """Hears both sides and measures. Raises UserError where a side cannot be used."""
    given = (_source(reference, "REFERENCE", ""), _source(generated, "GENERATED", settings.captions))
    files_given = any(isinstance(side, AudioList) for side in given)
    embedder, classifier = _models(settings) if files_given else (None, None)
    name = f"{settings.embedding} {embedder.version}" if embedder else "embeddings as given"
    sides = [_side(side, embedder, classifier, settings) for side in given]
    for side, which in zip(sides, ("REFERENCE", "GENERATED"), strict=True):
        if len(side.embeddings) < FEWEST:
            reasons = "; ".join(str(problem) for problem in side.problems[:3])
            raise UserError(f"{which}: got {len(side.embeddings)} usable clips, allowed {FEWEST} or more ({reasons})")
    if sides[0].embeddings.shape[1] != sides[1].embeddings.shape[1]:
        widths = " and ".join(str(side.embeddings.shape[1]) for side in sides)
        raise UserError(f"GENERATED: got embeddings of widths {widths}, allowed equal ones (the same `embedding`)")
    found = tuple(_measures(sides, embedder, classifier, settings))
    return FieldResult(found, name, sides[0], sides[1], more or {})


def report(result: FieldResult, settings: FieldSettings) -> None:
    """Prints the table and what could not be used; writes the files of `out`."""
    from evaluation.field_measures import lines_of

    sizes = len(result.reference.embeddings), len(result.generated.embeddings)
    print(f"{sizes[1]} generated clips against {sizes[0]} of the reference, in the space of {result.embedding}")
    print("\n".join(lines_of(result.measures)))
    problems = [*result.reference.problems, *result.generated.problems]
    if problems:
        print(f"{len(problems)} not used:", file=sys.stderr)
        rest = [f"  … and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
        print("\n".join([*(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS]), *rest]), file=sys.stderr)
    if settings.out:
        _write(result, settings, problems)
        print(f"written: {settings.out}/field.json")


def _source(source: str | Path | AudioList, which: str, captions: str) -> AudioList | np.ndarray:
    if isinstance(source, AudioList):
        return source
    path = Path(source)
    if path.suffix != ".npy":
        return list_audio(path, captions, which)
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{which}: got {path}, which cannot be read ({error})") from None
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise UserError(f"{which}: got {path} of shape {list(rows.shape)}, allowed finite numbers [N, D]")
    return rows.astype(np.float64)


def _models(settings: FieldSettings) -> tuple[Embedder, Classifier | None]:
    import torch

    from evaluation.embedding import load_classifier, load_embedder

    torch.set_num_threads(settings.threads)
    embedder = load_embedder(existing_asset(settings.embedding), environment=settings.environment)
    return embedder, load_classifier(existing_asset(settings.classifier)) if settings.classifier else None


def _side(
    given: AudioList | np.ndarray, embedder: Embedder | None, classifier: Classifier | None, settings: FieldSettings
) -> Side:
    if isinstance(given, np.ndarray):
        return Side(None, given)
    from evaluation.heard import hear

    heard = hear(given.files, embedder, classifier, settings.seconds)
    return Side(heard, heard.embeddings, (*given.problems, *heard.problems))


def _measures(
    sides: Sequence[Side], embedder: Embedder | None, classifier: Classifier | None, settings: FieldSettings
) -> list[Measure]:
    from evaluation.embedding import places_prompts
    from evaluation.field_measures import classifier_score, set_distances, text_score

    reference, generated = sides
    try:
        found = set_distances(reference.embeddings, generated.embeddings, settings.resamples, settings.bandwidth)
    except ValueError as error:
        raise UserError(f"REFERENCE: {error}") from None
    if generated.heard and embedder and places_prompts(embedder):
        rows = [row for row, file in enumerate(generated.heard.files) if file.caption]
        if rows:
            prompts = embedder.embed_prompts([generated.heard.files[row].caption for row in rows])  # type: ignore[attr-defined]
            found.append(text_score(generated.embeddings[rows], prompts))
    if classifier and reference.heard and generated.heard:
        ours, theirs = generated.heard.rows_by_name(), reference.heard.rows_by_name()
        names = [name for name in ours if name in theirs]
        if not names:
            raise UserError("classifier: no clip of GENERATED has the file name of one of REFERENCE, which KL needs")
        left, right = ([rows[name] for name in names] for rows in (theirs, ours))
        found.append(classifier_score(reference.heard.classes[left], generated.heard.classes[right]))
    return found


def _write(result: FieldResult, settings: FieldSettings, problems: Sequence[Problem]) -> None:
    import io

    folder = Path(settings.out)
    for name, side in (("reference", result.reference), ("generated", result.generated)):
        buffer = io.BytesIO()
        np.save(buffer, side.embeddings)
        write_bytes_atomic(folder / f"{name}.npy", buffer.getvalue())
    content = {
        "embedding": result.embedding,
        "classifier": settings.classifier,
        "seconds": settings.seconds,
        "reference_clips": len(result.reference.embeddings),
        "generated_clips": len(result.generated.embeddings),
        "not_used": len(problems),
        "measures": [measure.as_dict() for measure in result.measures],
        **result.more,
    }
    write_text_atomic(folder / "field.json", json.dumps(content, indent=1) + "\n")
    write_text_atomic(folder / "problems.txt", "".join(f"{problem}\n" for problem in problems))
