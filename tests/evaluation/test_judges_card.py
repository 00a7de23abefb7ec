"""The model card: its figures by hand, its bounds, and that models that know nothing do not pass it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_parts import tiny_codec, tiny_policy

sys.path.insert(0, str(Path(__file__).parents[1] / "rewards"))
from reward_parts import make_quality, make_text_adherence, tone_corpus

from cluster.errors import UserError
from codec.checkpoint import save_codec
from evaluation.card_figures import Figure, bits_per_token, perplexity, shuffle
from evaluation.model_card import main, write_card
from evaluation.test_set import export_test_set, load_test_set, stream_encoder
from rewards.port import ClipBatch


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A folder as it is shipped, with models that know nothing."""
    folder = tmp_path_factory.mktemp("assets")
    codec = tiny_codec()
    save_codec(codec, folder / "codec")
    make_text_adherence(folder / "text_adherence")
    make_quality(folder / "quality")
    corpus = tone_corpus(tmp_path_factory.mktemp("corpus"), "test", 24)
    encode = stream_encoder(codec, lambda pcm: torch.zeros(len(pcm), 1, pcm.shape[-1] // 640, dtype=torch.int64))
    export_test_set(corpus, encode, folder / "test_clips", clips=20, flac=12)
    return folder, corpus, codec


def test_the_test_set_comes_back_as_it_was(assets):
    folder, corpus, codec = assets
    test = load_test_set(folder / "test_clips")
    split = corpus.split("test")
    assert len(test) == 20 and test.codes.shape == (20, 3, 100) and test.pcm.shape == (12, 64_000)
    row = split.captions.index(test.captions[0])
    assert torch.equal(test.pcm[0], split.pcm([row])[0])
    assert test.attributes[0] == split.attributes[row]
    assert torch.equal(test.codes[:1, 1:], codec.encode(split.pcm([row])[:, None]))


def test_a_folder_without_test_clips_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"without clips\.parquet"):
        load_test_set(tmp_path)
    assert main([f"assets={tmp_path}"]) == 2
    assert main(["section=nothing"]) == 2


@pytest.mark.parametrize("section", ["text_adherence", "quality"])
def test_models_that_know_nothing_do_not_pass(assets, section, capsys):
    assert main([f"assets={assets[0]}", f"section={section}"]) == 1
    assert "outside its bounds" in capsys.readouterr().out
    assert not (assets[0] / "MODEL_CARD.md").exists()


def test_the_card_says_every_figure_its_command_and_its_file(assets):
    folder = assets[0]
    (folder / "quality" / "training.json").write_text(json.dumps({"degraded_share": 0.4}))
    write_card(folder, {"quality": [Figure("clean", 4.5, "MOS", least=4.0), Figure("silence", 2.0, "MOS", most=1.5)]})
    card = (folder / "MODEL_CARD.md").read_text()
    assert "| clean | 4.500 | MOS | at least 4 |" in card
    assert "python -m evaluation.model_card section=quality" in card
    assert "degraded share 0.4" in card and "Ryan's Mammoth Collection" in card
    assert "quality/model.safetensors" in card and "12 FLAC files" in card
    numbers = json.loads((folder / "model_card.json").read_text())
    assert [figure["passes"] for figure in numbers["figures"]["quality"]] == [True, False]


def test_bounds():
    assert Figure("x", 1.0, "", least=1.0, most=1.0).passes
    assert not Figure("x", 0.9, "", least=1.0).passes
    assert not Figure("x", 1.1, "", most=1.0).passes
    assert not Figure("x", float("nan"), "").passes


def test_perplexity_by_hand():
    assert perplexity(torch.tensor([[3, 3], [3, 3]])) == pytest.approx(1.0)
    assert perplexity(torch.tensor([0, 1, 2, 7])) == pytest.approx(4.0)
    assert perplexity(torch.tensor([0, 0, 0, 1])) == pytest.approx(4 / 3**0.75)


def test_bits_per_token_is_the_policys_mean_negative_log2():
    policy = tiny_policy()
    codes = torch.randint(0, 8, (3, 3, 10), generator=torch.Generator().manual_seed(0))
    captions = ["slow piano", "fast flute", "slow flute"]
    total = 0.0
    with torch.no_grad():
        logits = policy(codes, policy.encode_text(captions))
    for b in range(3):
        for k in range(3):
            for t in range(10):
                row = logits[b, k, t].double()
                total -= float(row[codes[b, k, t]] - torch.logsumexp(row, 0)) / np.log(2)
    assert bits_per_token(policy, codes, captions, batch=2) == pytest.approx(total / 90, rel=1e-5)


def test_shuffling_gives_every_clip_another_caption():
    clips = ClipBatch(tuple("abcdefghij"), 16_000, np.zeros((10, 64, 4), np.float32))
    assert all(a != b for a, b in zip(clips.prompts, shuffle(clips).prompts, strict=True))
