"""What the two reward models promise whatever they have learnt: lengths, windows, damage in the input, determinism."""

import numpy as np
import pytest
import torch
from reward_parts import make_quality, make_text_adherence

from rewards.port import ClipBatch
from rewards.quality import Quality, mos_of_severity
from rewards.text_adherence import TextAdherence
from rewards.windows import WINDOW_SPECTRA, mean_over_windows, window_starts


@pytest.fixture(params=["text_adherence", "quality"])
def model(request, tmp_path):
    if request.param == "quality":
        make_quality(tmp_path)
        return Quality.load(tmp_path)
    make_text_adherence(tmp_path)
    return TextAdherence.load(tmp_path)


def _clips(b, spectra, seed=0):
    mel = np.random.default_rng(seed).normal(-7, 1, (b, 64, spectra)).astype(np.float32)
    mel.setflags(write=False)  # as it comes out of the object store
    return ClipBatch(tuple(f"slow banjo {i}" for i in range(b)), 16_000, mel)


@pytest.mark.parametrize("spectra", [5, 50, 100, 200, 201, 330, 500])
def test_any_length_gives_one_finite_score_a_clip(model, spectra):
    scores = model.score(_clips(3, spectra))
    assert scores.shape == (3,) and scores.dtype == np.float32 and np.isfinite(scores).all()


def test_a_clips_score_does_not_depend_on_its_neighbours(model):
    clips = _clips(70, 60)
    together = model.score(clips)
    alone = np.concatenate([model.score(clips.take([row])) for row in (0, 33, 69)])
    np.testing.assert_allclose(together[[0, 33, 69]], alone, atol=1e-5)


def test_a_non_finite_clip_is_missing_and_its_neighbours_are_not(model):
    clips = _clips(4, 60)
    mel = clips.log_mel.copy()
    mel[2, 10, 10] = np.nan
    scores = model.score(ClipBatch(clips.prompts, 16_000, mel))
    assert np.isnan(scores).tolist() == [False, False, True, False]
    np.testing.assert_allclose(scores[[0, 1, 3]], model.score(clips)[[0, 1, 3]], atol=1e-5)


def test_ranges(model):
    scores = model.score(_clips(16, 100))
    low, high = (1.0, 5.0) if isinstance(model, Quality) else (-1.0, 1.0)
    assert (scores >= low).all() and (scores <= high).all()


def test_text_adherence_reads_the_prompt_and_its_word_order(tmp_path):
    make_text_adherence(tmp_path)
    model = TextAdherence.load(tmp_path)
    mel = np.repeat(_clips(1, 100).log_mel, 4, axis=0)
    scores = model.score(ClipBatch(("fast banjo", "slow banjo", "no drums banjo", "drums no banjo"), 16_000, mel))
    assert len(set(scores.round(5).tolist())) == 4
    odd = model.score(ClipBatch(("", "!!!", "zither ostinato", "x " * 5000), 16_000, mel))
    assert np.isfinite(odd).all()


def test_padding_does_not_change_a_prompt(tmp_path):
    make_text_adherence(tmp_path)
    model = TextAdherence.load(tmp_path)
    alone = model.embed_prompts(["slow banjo"])[0]
    beside = model.embed_prompts(["slow banjo", "a very very long prompt about no drums at all"])[0]
    np.testing.assert_allclose(alone, beside, atol=1e-6)


def test_windows_cover_the_clip_and_are_averaged():
    assert window_starts(WINDOW_SPECTRA) == [0]
    assert window_starts(WINDOW_SPECTRA + 50) == [0, 50]
    assert window_starts(3 * WINDOW_SPECTRA) == [0, WINDOW_SPECTRA, 2 * WINDOW_SPECTRA]
    mel = np.zeros((2, 64, 2 * WINDOW_SPECTRA), np.float32)
    mel[0, :, :WINDOW_SPECTRA], mel[0, :, WINDOW_SPECTRA:] = 1.0, 5.0
    np.testing.assert_allclose(mean_over_windows(mel, lambda x: x.mean((1, 2))), [3.0, 0.0], atol=1e-5)


def test_severity_to_opinion_score():
    np.testing.assert_allclose(mos_of_severity(torch.tensor([0.0, 0.5, 1.0])), [4.7, 2.95, 1.2], atol=1e-6)
