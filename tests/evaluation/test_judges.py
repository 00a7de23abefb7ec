"""The held-out judges: what each counts, what it is trained on, and how a directory of them is read."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "rewards"))
from reward_parts import PULSES_HZ, make_quality, tone_corpus

from cluster.errors import UserError
from codec.log_mel import log_mel
from evaluation.diversity import frechet_distance
from evaluation.judges import LOADERS, Embedder, embedder_of, load_judges
from evaluation.probes import AttributeJudge
from evaluation.signal_measures import (
    SpectrumJudge,
    SpectrumReference,
    TempoJudge,
    TempoReference,
    onset_density,
    spectrum_features,
)
from evaluation.train_judges import main, train_judges
from rewards.port import ClipBatch, RewardModel
from world.attributes import ATTRIBUTES

RATE = 16_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tone_corpus(tmp_path_factory.mktemp("corpus"), "judge")


@pytest.fixture(scope="module")
def directory(corpus, tmp_path_factory):
    """All four judges, trained for a few seconds on tones."""
    out = tmp_path_factory.mktemp("judges")
    train_judges(corpus, None, out, steps=30, batch_size=32, progress=lambda _: None)
    return out


@pytest.fixture(scope="module")
def clips(corpus):
    split = corpus.split("judge")
    return ClipBatch(tuple(split.captions), RATE, log_mel(split.pcm(range(len(split)))).numpy())


def test_all_four_judges_load_in_order_and_fulfil_the_port(directory, clips):
    judges = load_judges(directory)
    assert [judge.name for judge in judges] == list(LOADERS) == ["second_text_audio", "attributes", "tempo", "spectrum"]
    for judge in judges:
        assert isinstance(judge, RewardModel) and judge.version
        scores = judge.score(clips)
        assert scores.shape == (len(clips),) and scores.dtype == np.float32


def test_each_judge_prefers_what_fits(directory, clips):
    other = ClipBatch(clips.prompts[5:] + clips.prompts[:5], RATE, clips.log_mel)
    for judge in load_judges(directory):
        assert np.nanmean(judge.score(clips)) > np.nanmean(judge.score(other)) + 0.05, judge.name


def test_embedders_separate_sounds(directory, clips):
    judges = load_judges(directory)
    embedder = embedder_of(judges)
    assert embedder is judges[0] and isinstance(judges[1], Embedder) and not isinstance(judges[2], Embedder)
    for judge in judges[:2]:
        places = judge.embed(clips)
        np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1.0, atol=1e-3)
        assert np.linalg.norm(places[0] - places[1]) > 1e-3
        half = len(places) // 2
        noise = judge.embed(ClipBatch(clips.prompts, RATE, np.random.default_rng(0).normal(-6, 1, clips.log_mel.shape)))
        assert frechet_distance(places[:half], noise) > frechet_distance(places[:half], places[half:])
    assert embedder_of(judges[2:]) is None


def test_the_attribute_judge_averages_what_the_prompt_names(directory, clips):
    judge = AttributeJudge.load(directory / "attributes")
    one = clips.take([0, 0, 0, 0])
    read = judge.probabilities(one.log_mel)
    assert all(np.allclose(read[name].sum(1), 1.0, atol=1e-5) for name in ATTRIBUTES)
    prompts = ("a fast banjo", "no drums", "something else", "")
    scores = judge.score(ClipBatch(prompts, RATE, one.log_mel))
    fast, banjo = read["tempo"][0, 2], read["lead"][0, ATTRIBUTES["lead"].index("banjo")]
    assert scores[0] == pytest.approx((fast + banjo) / 2, abs=1e-6)
    assert scores[1] == pytest.approx(read["drums"][0, 0], abs=1e-6)
    assert np.isnan(scores[2:]).all()


@pytest.mark.parametrize("rate_hz", list(PULSES_HZ.values()))
def test_onsets_are_counted(rate_hz):
    mel = np.full((1, 64, 200), -9.0, np.float32)
    times = np.arange(0.1, 3.95, 1 / rate_hz)
    for at in times:
        start = int(at * 50)
        decay = -4.0 - 0.4 * np.arange(200 - start)
        mel[0, :, start:] = np.maximum(np.full(200 - start, -9.0), decay)
    assert onset_density(mel)[0] * 4.0 == pytest.approx(len(times), abs=1)


def test_silence_has_no_onsets_and_a_finite_spectrum():
    silence = np.full((1, 64, 200), np.log(1e-4), np.float32)
    assert onset_density(silence)[0] == 0.0
    assert np.isfinite(spectrum_features(silence)).all()


def test_tempo_judge_by_hand():
    means = {beat: {"slow": 0.0, "medium": 1.0, "fast": 2.0} for beat in ("any", *ATTRIBUTES["drums"])}
    judge = TempoJudge(TempoReference(means, 0.5))
    weights = np.exp([-0.5 * (d / 0.5) ** 2 for d in (0.25, -0.75, -1.75)])
    assert judge._chance("a slow tune", 0.25) == pytest.approx(weights[0] / weights.sum(), rel=1e-6)
    assert judge._chance("a fast tune", 50.0) == pytest.approx(1.0)
    assert np.isnan(judge._chance("a banjo", 0.25))


def test_spectrum_judge_measures_deviations_in_standard_deviations(clips):
    features = spectrum_features(clips.log_mel)
    lead = {name: features.mean(0).tolist() for name in ("any", *ATTRIBUTES["lead"])}
    spread = np.diag(1 / features.var(0)).tolist()
    judge = SpectrumJudge(SpectrumReference(lead, {"any": spread, "lead": spread}))
    z = (features - features.mean(0)) / features.std(0)
    np.testing.assert_allclose(judge.score(clips), -np.sqrt((z**2).mean(1)), rtol=1e-4)


def test_brighter_and_noisier_is_heard():
    mel = np.random.default_rng(0).normal(-6, 0.3, (1, 64, 100)).astype(np.float32)
    bright = mel.copy()
    bright[:, 40:] += 2.0
    peaky = mel.copy()
    peaky[:, ::8] += 3.0
    base, brighter, tonal = (spectrum_features(x)[0] for x in (mel, bright, peaky))
    assert brighter[0] > base[0] + 0.3 and tonal[1] < base[1] - 0.3


def test_a_directory_that_is_no_set_of_judges_is_one_line(directory, tmp_path):
    assert load_judges("") == []
    with pytest.raises(UserError, match="existing directory"):
        load_judges(tmp_path / "nowhere")
    with pytest.raises(UserError, match="without a judge"):
        load_judges(tmp_path)
    make_quality(tmp_path / "quality")
    with pytest.raises(UserError, match="got kind 'quality'"):
        load_judges(tmp_path)


def test_judges_read_nothing_but_the_judge_split(corpus, tmp_path, monkeypatch):
    read = []
    split = type(corpus).split
    monkeypatch.setattr(type(corpus), "split", lambda self, name: (read.append(name), split(self, name))[1])
    train_judges(corpus, None, tmp_path, steps=1, batch_size=8, progress=lambda _: None)
    assert set(read) == {"judge"}


def test_bad_arguments_end_with_one_line_and_status_2(capsys):
    assert main(["stepps=4"]) == 2
    assert "stepps: unknown key, did you mean steps?" in capsys.readouterr().err
