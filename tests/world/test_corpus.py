"""A small world built from nothing: sound that is what its notes say, files that resume, tokens with honest flags."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import UserError
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from codec.semantic import SemanticConfig, SemanticFeatures, SemanticTokenizer
from world.attributes import ATTRIBUTES
from world.build import build_corpus
from world.corpus import SPLITS, Corpus
from world.degradations import CLEAN
from world.render import PEAK, TARGET_RMS
from world.tokens import encode_corpus, load_tokens
from world.truth import CHORDS_SOUND, FACTS, LEAD_ONSET, frame_facts

try:
    import music21  # noqa: F401

    CAN_BUILD = shutil.which("fluidsynth") is not None
except ImportError:
    CAN_BUILD = False
pytestmark = pytest.mark.skipif(not CAN_BUILD, reason="needs fluidsynth and music21 (the extra 'world')")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("world"), scale=0.003, workers=1)


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus.open(folder)


def test_every_split_has_clips_and_no_tune_is_in_two(corpus: Corpus) -> None:
    tunes = {name: set(corpus.split(name).table["tune_id"].to_pylist()) for name in SPLITS}
    assert all(tunes.values())
    assert sum(map(len, tunes.values())) == len(set.union(*tunes.values()))
    assert len(corpus.split("train")) > len(corpus.split("test")) >= 8


def test_sound_is_four_seconds_at_one_loudness(corpus: Corpus) -> None:
    pcm = corpus.split("train").pcm([0, 3, 5])
    assert pcm.shape == (3, 64_000)
    assert pcm.dtype == torch.float32
    assert float(pcm.abs().max()) <= PEAK + 1e-3
    rms = pcm.square().mean(1).sqrt()
    assert bool((rms > 0.5 * TARGET_RMS).all()) and bool((rms < 1.01 * TARGET_RMS).all())


def test_the_notes_written_down_are_the_notes_heard(corpus: Corpus) -> None:
    """Where only the lead plays, a note's pitch has more energy in its first harmonics than its neighbours have."""
    heard = []
    for name in SPLITS:
        split = corpus.split(name)
        scores = split.scores()["notes"].to_pylist()
        for row, facts in enumerate(split.attributes):
            if (facts["drums"], facts["chords"]) == ("none", "none"):
                pcm = split.pcm([row])[0].numpy()
                heard += [_is_heard(pcm, note) for note in scores[row] if note["length_s"] > 0.15]
    assert len(heard) > 10
    assert np.mean(heard) > 0.85


def test_attributes_and_labels_agree(corpus: Corpus) -> None:
    split = corpus.split("train")
    for name, values in ATTRIBUTES.items():
        labels = split.attribute_labels(name).tolist()
        assert [values[label] for label in labels] == [facts[name] for facts in split.attributes]
    assert all(len(caption.split()) > 0 for caption in split.captions)
    assert split.captions != split.table["caption_alt"].to_pylist()


def test_frame_facts_follow_the_score(corpus: Corpus) -> None:
    split = corpus.split("train")
    chords = split.table["chords"].to_pylist()
    facts = frame_facts(split.scores(), chords)
    assert facts.shape == (len(split), 100, FACTS)
    for row, name in enumerate(chords):
        assert bool(facts[row, :, CHORDS_SOUND].all()) == (name != "none")
    rate = facts[..., LEAD_ONSET].sum(1) / 4
    np.testing.assert_allclose(rate, split.table["notes_per_s"].to_numpy(), atol=0.6)


def test_building_again_keeps_the_sound_and_rewrites_the_table(folder: Path) -> None:
    before = (folder / "pcm.npy").stat().st_mtime_ns
    table = (folder / "clips.parquet").read_bytes()
    (folder / "clips.parquet").unlink()
    build_corpus(folder, scale=0.003, workers=1)
    assert (folder / "pcm.npy").stat().st_mtime_ns == before
    assert (folder / "clips.parquet").read_bytes() == table


@pytest.mark.parametrize("missing", ["clips.parquet", "pcm.npy", "notes.parquet"])
def test_an_unfinished_corpus_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(folder, tmp_path / "world")
    (tmp_path / "world" / missing).unlink()
    with pytest.raises(UserError, match=missing):
        Corpus.open(tmp_path / "world")


def test_an_unknown_split_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UserError, match="split: got 'dev'"):
        corpus.split("dev")


@pytest.fixture(scope="module")
def models() -> tuple[MagnitudeCodec, SemanticTokenizer]:
    torch.manual_seed(0)
    codec = MagnitudeCodec(MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4)).eval()
    codec.quantizer.codebooks.normal_()
    config = SemanticConfig(width=16, hidden=16, blocks=1, features=4)
    centroids = torch.nn.functional.normalize(torch.randn(256, 4), dim=1)
    return codec, SemanticTokenizer(SemanticFeatures(config), centroids, config).eval()


def test_tokens_carry_what_was_damaged_and_what_was_swapped(
    corpus: Corpus, models: tuple[MagnitudeCodec, SemanticTokenizer], tmp_path: Path
) -> None:
    said: list[str] = []
    paths = encode_corpus(corpus, *models, tmp_path, variants=2, say=said.append)
    clean, mixed = load_tokens(paths["clean"]), load_tokens(paths["mixed"])
    train = corpus.split("train")
    assert len(clean) == len(corpus.table)
    assert len(mixed) == len(corpus.table) + len(train)
    assert clean.batch([0]).shape == (1, 5, 100)
    assert set(clean.damage) == {CLEAN} and set(clean.swapped) == {""}
    assert 0 < sum(kind != CLEAN for kind in mixed.damage) < len(mixed)
    assert 0 < sum(bool(names) for names in mixed.swapped) < len(mixed)
    assert [bool(s) for s in mixed.severity] == [kind != CLEAN for kind in mixed.damage]
    codec, semantic = models
    row = int(clean.rows("train")[2])
    pcm = train.pcm([2])[:, None]
    assert torch.equal(clean.batch([row])[:, 1:], codec.encode(pcm))
    assert torch.equal(clean.batch([row])[:, :1], semantic.encode(pcm))
    _check_whole_clips_kept(clean, mixed)
    done = len(said)
    encode_corpus(corpus, *models, tmp_path, variants=2, say=said.append)
    assert len(said) == done  # nothing is made twice


def test_a_file_that_holds_no_tokens_is_refused(tmp_path: Path) -> None:
    spoils: list[Callable[[Path], object]] = [
        lambda p: None,
        lambda p: p.write_bytes(b"no tokens"),
        lambda p: np.savez(p, codes=np.zeros(3)),
    ]
    for index, spoil in enumerate(spoils):
        path = tmp_path / f"{index}.npz"
        spoil(path)
        with pytest.raises(UserError, match="tokens: got"):
            load_tokens(path)


def _check_whole_clips_kept(clean: object, mixed: object) -> None:
    """Version 0 of a clip that was not damaged has the tokens of the clean set."""
    of = {clip: row for row, clip in enumerate(clean.clip_ids)}  # type: ignore[attr-defined]
    rows = [r for r in range(len(mixed)) if mixed.damage[r] == CLEAN and mixed.variant[r] == 0]  # type: ignore
    assert rows
    assert all(np.array_equal(mixed.codes[r], clean.codes[of[mixed.clip_ids[r]]]) for r in rows)  # type: ignore


def _is_heard(pcm: np.ndarray, note: dict) -> bool:
    first = int((note["start_s"] + 0.05) * 16_000)
    part = pcm[first : first + int(min(note["length_s"], 0.25) * 16_000)]
    if len(part) < 1600:
        return True  # cut off by the end of the clip
    t = np.arange(len(part)) / 16_000
    window = np.hanning(len(part))

    def strength(semitones: float) -> float:
        hz = 440 * 2 ** ((note["pitch"] + semitones - 69) / 12)
        tones = [np.exp(-2j * math.pi * hz * harmonic * t) for harmonic in (1, 2, 3)]
        return float(sum(abs(np.sum(part * window * tone)) for tone in tones))

    return strength(0) > 1.2 * max(strength(-2), strength(2))
