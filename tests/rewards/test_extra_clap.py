"""CLAP on a small random model of the true architecture: what it reads, that it repeats itself, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra clap is not installed: pip install transformers")

from extra_parts import sounds, write_clap

from cluster.errors import UserError
from configs.schema import RewardConfig
from evaluation.judges import Embedder
from rewards.extra.clap import Clap, repeat_and_pad
from rewards.registry import build_rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def clap(folder) -> Clap:
    return Clap(str(folder), device="cpu")


def test_the_spectrum_is_that_of_the_packages_own_extractor(clap):
    samples = torch.from_numpy(sounds(3.0).pcm[:, 0])
    padded = repeat_and_pad(samples, clap.window)
    own = clap.log_mel(padded).numpy()
    theirs = clap.features(list(samples.numpy()), sampling_rate=48_000, return_tensors="np")["input_features"][:, 0]
    assert own.shape == theirs.shape == (3, 1001, 64)
    np.testing.assert_allclose(own, theirs, atol=2e-2)  # dB, of values down to -100
    assert np.abs(own - theirs).mean() < 1e-4


def test_a_short_clip_scores_as_the_package_alone_scores_it(clap):
    clips = sounds(3.0)
    mono = clips.pcm.mean(1)
    features = clap.features(list(mono), sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        audio = clap.model.get_audio_features(**features)
        words = clap.tokenizer(list(clips.prompts), padding=True, return_tensors="pt")
        text = clap.model.get_text_features(**words)
    audio, text = (torch.nn.functional.normalize(v.pooler_output, dim=-1) for v in (audio, text))
    expected = (audio * text).sum(-1).numpy()
    np.testing.assert_allclose(clap.score(clips), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3  # clips and prompts matter


def test_a_long_clip_is_read_in_windows_that_cover_it_and_scores_alike_each_time(clap):
    clips = sounds(25.0, count=2)
    first = clap.score(clips)
    assert np.array_equal(first, clap.score(clips))  # the package would crop at random
    starts = (0, 360_000, 720_000)  # 0, 7.5 and 15 s
    parts = [clap.score(replace(clips, pcm=clips.pcm[..., s : s + 480_000])) for s in starts]
    np.testing.assert_allclose(first, np.mean(parts, axis=0), atol=1e-5)


def test_rate_and_batch_do_not_change_a_score(clap):
    clips = sounds(3.0)
    alone = np.concatenate([clap.score(clips.take([row])) for row in range(3)])
    np.testing.assert_allclose(clap.score(clips), alone, atol=1e-5)
    from codec.audio import resample

    at_16_khz = replace(clips, pcm=resample(clips.pcm, 48_000, 16_000), sample_rate_hz=16_000)
    np.testing.assert_allclose(clap.score(at_16_khz), clap.score(clips), atol=0.15)


def test_a_clip_that_is_not_finite_has_no_score_and_the_others_keep_theirs(clap):
    clips = sounds(3.0)
    broken = clips.pcm.copy()
    broken[1, 0, 5] = np.nan
    found = clap.score(replace(clips, pcm=broken))
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2]], clap.score(clips)[[0, 2]], atol=1e-5)


def test_a_fused_model_reads_every_window_as_a_short_clip(tmp_path):
    fused = Clap(str(write_clap(tmp_path / "fused", fused=True)), device="cpu")
    clips = sounds(12.0, count=2)
    first = fused.score(clips)
    assert np.isfinite(first).all() and np.array_equal(first, fused.score(clips))


def test_it_is_a_reward_of_the_config_and_an_embedding(folder):
    (model,) = build_rewards({"clap": RewardConfig(checkpoint=str(folder), shift=0.1, scale=0.2)})
    assert (model.name, model.needs, model.shift, model.scale) == ("clap", frozenset({"pcm"}), 0.1, 0.2)
    assert len(model.version) == 12 and isinstance(model.inner, Embedder)
    named = RewardConfig(checkpoint=str(folder), model="clap", options={"batch_size": 2})
    (other,) = build_rewards({"adherence": named})
    assert other.name == "adherence" and other.inner.batch_size == 2
    assert np.isfinite(other.score(sounds(1.0))).all()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("weights", "without weights"),
        ("cut", "no CLAP model"),
        ("tensor", "without the weights"),
        ("tokenizer", "without a tokenizer's files"),
        ("config", "no CLAP model"),
    ],
)
def test_a_broken_directory_is_one_line(folder, tmp_path, broken, said):
    import shutil

    from safetensors.torch import load_file, save_file

    place = tmp_path / "clap"
    shutil.copytree(folder, place)
    weights = place / "model.safetensors"
    if broken == "weights":
        weights.unlink()
    elif broken == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif broken == "tensor":
        tensors = load_file(weights)
        tensors.pop("audio_projection.linear1.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif broken == "tokenizer":
        for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
            (place / name).unlink(missing_ok=True)
    else:
        (place / "config.json").write_text("{")
    with pytest.raises(UserError) as caught:
        build_rewards({"clap": RewardConfig(checkpoint=str(place))})
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("rewards.clap: ")


def test_field_measures_in_its_space(folder, tmp_path, capsys):
    import soundfile

    from evaluation.main import main

    for side, seed in (("real", 0), ("made", 1)):
        (tmp_path / side).mkdir()
        for row, pcm in enumerate(sounds(1.0, seed=seed).pcm):
            soundfile.write(tmp_path / side / f"{row}.wav", pcm.T, 48_000)
            (tmp_path / side / f"{row}.txt").write_text("slow calm piano")
    words = [str(tmp_path / "real"), str(tmp_path / "made"), f"embedding=clap:{folder}", "resamples=20"]
    assert main(["field", *words]) == 0
    assert "CLAP score" in capsys.readouterr().out


def test_samples_of_one_prompt_share_its_embedding(clap, monkeypatch):
    prompts, seen = ["slow piano", "a flute", "slow piano", "slow piano"], []
    each = np.concatenate([clap.embed_prompts([prompt]) for prompt in prompts])
    real = clap.tokenizer
    monkeypatch.setattr(clap, "tokenizer", lambda texts, **options: seen.extend(texts) or real(texts, **options))
    np.testing.assert_allclose(clap.embed_prompts(prompts), each, atol=1e-6)
    assert seen == ["slow piano", "a flute"] and np.abs(each[0] - each[1]).max() > 1e-3
