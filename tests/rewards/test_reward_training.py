"""The embedded rewards learn, on a small corpus of tones instead of music: fast, and blind to nothing that counts."""

import numpy as np
import pytest
import torch
from reward_parts import make_codec, tone_corpus

from cluster.errors import UserError
from codec.log_mel import log_mel
from rewards.bank import VIEWS, Bank, batches, build_bank, saved_bank
from rewards.normalisation import measure_normalisation
from rewards.port import ClipBatch
from rewards.quality import Quality
from rewards.text_adherence import TextAdherence
from rewards.train import main, train_quality, train_text_adherence


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tone_corpus(tmp_path_factory.mktemp("corpus"), "train")


def _say(_):
    pass


def test_a_trained_pair_of_towers_prefers_the_right_prompt(corpus, tmp_path):
    train_text_adherence(corpus, None, tmp_path, steps=50, batch_size=32, progress=_say)
    split = corpus.split("train")
    mel = log_mel(split.pcm(range(48))).numpy()
    model = TextAdherence.load(tmp_path)
    matched = model.score(ClipBatch(tuple(split.captions[:48]), 16_000, mel))
    shuffled = model.score(ClipBatch(tuple(np.roll(split.captions[:48], 5)), 16_000, mel))
    assert matched.mean() > shuffled.mean() + 0.2


def test_quality_learns_to_hear_noise_and_silence(corpus, tmp_path):
    train_quality(corpus, None, tmp_path, steps=50, batch_size=32, progress=_say)
    pcm = corpus.split("train").pcm(range(32))
    noisy = pcm + 0.1 * torch.randn(pcm.shape, generator=torch.Generator().manual_seed(0))
    model = Quality.load(tmp_path)
    prompts = ("",) * 32
    clean, bad, silent = (
        model.score(ClipBatch(prompts, 16_000, log_mel(x).numpy())).mean() for x in (pcm, noisy, torch.zeros_like(pcm))
    )
    assert clean > bad + 1.0 and clean > silent + 1.0
    shift, scale = measure_normalisation(
        tmp_path, ClipBatch(("",) * 64, 16_000, log_mel(torch.cat([pcm, noisy])).numpy())
    )
    again = Quality.load(tmp_path)
    assert (again.shift, again.scale) == (shift, scale)
    assert bad < shift < clean and scale > 0.3


def test_normalisation_refuses_clips_that_all_score_alike(corpus, tmp_path):
    train_quality(corpus, None, tmp_path, steps=2, batch_size=8, progress=_say)
    with pytest.raises(UserError, match="cannot normalise"):
        measure_normalisation(tmp_path, ClipBatch(("", ""), 16_000, np.full((2, 64, 100), -9.0, np.float32)))


def test_training_is_seeded(corpus, tmp_path):
    for name in "ab":
        train_quality(corpus, None, tmp_path / name, steps=3, batch_size=8, seed=4, progress=_say)
    assert Quality.load(tmp_path / "a").version == Quality.load(tmp_path / "b").version


def test_the_bank_holds_clean_and_damaged_views_of_every_clip_and_silence(corpus):
    bank = build_bank(corpus.split("train"), None, seed=0, progress=_say)
    clean = bank.view == VIEWS.index("clean")
    assert int(clean.sum()) == 96 and bank.severity[clean].max() == 0.0
    damaged = bank.view == VIEWS.index("damaged")
    assert torch.equal(bank.clip[damaged], torch.arange(96)) and bank.severity[damaged].std() > 0.2
    assert not torch.equal(bank.log_mel[clean], bank.log_mel[damaged])
    nothing = bank.view == VIEWS.index("nothing")
    assert nothing.any() and (bank.severity[nothing] == 1.0).all()
    assert len(bank.of_clips()) == 192


def test_a_bank_holds_what_the_codec_makes_of_the_clips(corpus):
    codec = make_codec()
    bank = build_bank(corpus.split("train"), codec, seed=0, codec_share=0.3, waveform_share=0.3, progress=_say)
    clean = bank.view == VIEWS.index("clean")
    for view in ("tokens", "damaged_tokens", "wrong_tokens", "waveform"):
        rows = bank.take((bank.view == VIEWS.index(view)).nonzero()[:, 0])
        assert len(rows) > 5 and rows.log_mel.shape[1:] == (64, 200), view
        assert (rows.severity.max() == 0.0) == (view == "tokens"), view
        assert not torch.equal(rows.log_mel, bank.log_mel[clean][rows.clip]), view


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_a_chunk_of_which_no_clip_goes_through_the_codec_is_no_error(corpus, share):
    bank = build_bank(corpus.split("train"), make_codec(), 0, share, share, progress=_say)
    assert int((bank.view == VIEWS.index("clean")).sum()) == 96


def test_batches_visit_every_row_once_an_epoch(corpus):
    bank = Bank(torch.zeros(10, 64, 200).half(), torch.arange(10), torch.zeros(10), torch.zeros(10).long())
    seen = [rows.clip for _, rows in batches(bank, 5, 4, np.random.default_rng(0))]
    assert sorted(torch.cat(seen[:2]).tolist()) == sorted(torch.cat(seen[2:]).tolist()) == list(range(10))


def test_a_saved_bank_is_made_again_for_another_key(tmp_path):
    made = []

    def make():
        made.append(1)
        return Bank(torch.ones(1, 64, 4).half(), torch.zeros(1).long(), torch.zeros(1), torch.zeros(1).long())

    for key in ("a", "a", "b"):
        saved_bank(tmp_path / "bank.npz", make, key)
    assert len(made) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "model: got 'nothing'"),
        (["tempo"], "text_adherence, quality"),
        (["quality", "step=3"], "step: unknown key, did you mean steps?"),
        (["quality", "steps=many"], "steps: got 'many'"),
        (["quality", "steps=0"], "steps: got 0"),
        (["quality", "corpus=/nowhere"], "corpus: got /nowhere"),
    ],
)
def test_bad_arguments_end_with_one_line_and_status_2(arguments, said, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
