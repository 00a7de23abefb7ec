"""MusicGen-Melody by text alone, on random weights: equal to transformers' model, in both layouts, in every sampler."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from cluster.errors import UserError
from codec.checkpoint import load_codec
from codec.torchaudio_guard import import_torchaudio
from policy.checkpoint import load_policy, save_policy
from policy.log_probs import gather, log_distribution
from policy.musicgen.audiocraft import save_audiocraft
from policy.musicgen.packed import PRECISIONS, Precision
from policy.musicgen.packed_prefix import Prefill
from policy.musicgen.random_checkpoint import RandomShapes, main, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from tests.policy.audiocraft_reader import LanguageModel

SHAPES = {
    "mono": RandomShapes(kind="melody", chroma_places=9, seed=1),
    "stereo": RandomShapes(kind="melody", chroma_places=16, stereo=True, text_width=32, seed=2),  # no project_text
    "larger": RandomShapes(kind="melody", width=60, heads=2, layers=3, entries=128, chroma_places=37, seed=3),
}
PROMPTS = ["slow piano", "upbeat jazz guitar with drums", ""]
FRAMES = 6


@pytest.fixture(scope="module", params=list(SHAPES))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("melody") / request.param, SHAPES[request.param])


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("mono") / "melody", SHAPES["mono"])


def transformers_model(directory: Path) -> Any:
    import_torchaudio()  # transformers imports it, and a wheel for another torch would break that
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind = transformers.MusicgenMelodyForConditionalGeneration
    model, found = kind.from_pretrained(directory, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return model.eval()


def forced(model: Any, policy: Any, text: Tensor, codes: Tensor) -> Tensor:
    """transformers' logits of one clip [K, T] under one prompt [1, L]."""
    frames, delays = codes.shape[1], policy.shapes.delays
    sequence = policy.trunk.layout(frames).to_sequence(codes[None], policy.shapes.entries)[0, :, :-1]
    with torch.no_grad():
        found = model(input_ids=text, attention_mask=torch.ones_like(text), decoder_input_ids=sequence).logits
    found = found[:, -sequence.shape[1] :]
    return torch.stack([found[k, d : d + frames] for k, d in enumerate(delays)])


def test_logits_guidance_and_greedy_codes_equal_transformers(directory: Path) -> None:
    """Ours in one batch of prompts of unequal length; theirs one by one, for there a batch's padding is seen."""
    policy, theirs = load_policy(directory), transformers_model(directory)
    text, delays = policy.encode_text(PROMPTS[:2]), policy.shapes.delays
    codes = torch.randint(policy.shapes.entries, (2, len(delays), FRAMES), generator=torch.Generator().manual_seed(0))
    alone = [row[row != 0][None] for row in text]
    assert alone[0].shape != alone[1].shape
    with torch.no_grad():
        ours = policy(codes, text)
    expected = torch.stack([forced(theirs, policy, *given) for given in zip(alone, codes, strict=True)])
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() < 1e-4

    heard: list[Tensor] = []

    def hear(codes: Tensor, **_: Any) -> Any:
        heard.append(codes[0])
        return SimpleNamespace(audio_values=torch.zeros(codes.shape[1], 1, 8))

    theirs.audio_encoder.decode = hear
    for guidance in (1.0, 3.0):
        settings = SamplingSettings(1e-5, guidance)
        greedy, _ = sampler_of(policy).sample(text, [5, 6], FRAMES, settings)
        with torch.no_grad():
            guided = policy(greedy, text, guidance_scale=guidance)
        for row, prompt in enumerate(alone):
            heard.clear()
            steps = theirs.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                guidance_scale=guidance,
                max_new_tokens=FRAMES + max(delays),
                return_dict_in_generate=True,
                output_scores=True,
            ).scores
            sides = heard[0] if len(heard) == 1 else torch.stack(heard, dim=2).flatten(1, 2)
            assert torch.equal(greedy[row], sides[0])
            told = torch.stack([torch.stack(steps[d : d + FRAMES])[:, k] for k, d in enumerate(delays)])
            assert (guided[row] - told).abs().max() < 1e-4


def test_both_layouts_keep_every_bit(directory: Path, tmp_path: Path) -> None:
    policy, codec = load_policy(directory), load_codec(directory)
    save_audiocraft(policy, tmp_path / "audiocraft")
    save_policy(load_policy(tmp_path / "audiocraft"), tmp_path / "transformers")
    before, after = (transformers_model(each).state_dict() for each in (directory, tmp_path / "transformers"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for folder in (tmp_path / "audiocraft", tmp_path / "transformers"):
        again = load_policy(folder)
        assert again.shapes == policy.shapes
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in policy.state_dict().items())
        assert load_codec(folder).version == codec.version  # type: ignore[attr-defined]
    package = torch.load(tmp_path / "audiocraft" / "state_dict.bin", weights_only=True)
    window = "condition_provider.conditioners.self_wav.chroma.spec.window"
    package["best_state"][window] = torch.rand(2**14)  # as somebody's own
    torch.save(package, tmp_path / "audiocraft" / "state_dict.bin")
    save_audiocraft(load_policy(tmp_path / "audiocraft"), tmp_path / "again")
    kept = torch.load(tmp_path / "again" / "state_dict.bin", weights_only=True)
    assert kept["best_state"].keys() == package["best_state"].keys() and kept["xp.cfg"] == package["xp.cfg"]
    assert all(torch.equal(tensor, package["best_state"][name]) for name, tensor in kept["best_state"].items())


def test_an_independent_reader_of_audiocraft_agrees(directory: Path, tmp_path: Path) -> None:
    """One prompt at a time: in a batch audiocraft's prompts see each other's padding."""
    policy = load_policy(directory)
    save_audiocraft(policy, tmp_path)
    if not policy.shapes.project_text:
        return  # audiocraft always projects; what has no projection can only come back to where it came from
    reader, text = LanguageModel(tmp_path, policy.shapes.text_width), policy.encode_text(PROMPTS[:2])
    codes = torch.randint(policy.shapes.entries, (2, len(policy.streams), FRAMES))
    with torch.no_grad():
        ours, guided = policy(codes, text), policy(codes, text, guidance_scale=3.0)
    for row in range(2):
        states = policy.prompts.states(text[row][text[row] != 0][None])
        told, null = (reader(codes[row : row + 1], each)[0] for each in (states, torch.zeros_like(states)))
        assert (ours[row] - told).abs().max() < 1e-4
        assert (guided[row] - (null + 3 * (told - null))).abs().max() < 1e-4


# ---- samplers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("kernels", [True, False], ids=["compiled", "torch"])
def test_sampler_and_learner_agree_on_every_cell(directory: Path, guidance: float, kernels: bool) -> None:
    policy, settings = load_policy(directory), SamplingSettings(0.8, guidance)
    text = policy.encode_text([*PROMPTS, PROMPTS[1], "slow " * 40])
    served = policy if kernels else copy.deepcopy(policy).double()
    codes, log_probs = sampler_of(served).sample(text, range(5), FRAMES, settings)
    with torch.no_grad():
        taught = gather(log_distribution(policy, codes, text, settings), codes)
        read = policy(
            codes, text, read=lambda states: policy.readout.logits(states, 0, FRAMES), guidance_scale=guidance
        )
    assert (taught - log_probs).abs().max() < 1e-5
    assert (gather((read / 0.8).log_softmax(-1), codes) - taught).abs().max() < 1e-5
    assert log_probs.std() > 0.1 and not torch.equal(codes[1], codes[3])


def test_torch_shares_a_groups_prefix(mono: Path) -> None:
    policy, settings = load_policy(mono).double(), SamplingSettings(1.0, 3.0)
    text = policy.encode_text([prompt for prompt in PROMPTS for _ in range(2)])
    grouped, log_probs = sampler_of(policy).sample(text, range(6), FRAMES, settings)
    order = [0, 2, 4, 1, 3, 5]
    apart, others = sampler_of(policy).sample(text[order], order, FRAMES, settings)
    assert torch.equal(grouped[order], apart) and (log_probs[order] - others).abs().max() < 1e-5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_clips_of_different_lengths_do_not_wait(directory: Path, precision: Precision) -> None:
    """Each is what it is alone, to the bit, whoever was in its slot before, with whatever prompt."""
    policy, settings = load_policy(directory), SamplingSettings(0.8, 3.0)
    sampler, frames = sampler_of(policy, precision), [20, 2, 7, 15, 1]
    text = policy.encode_text(["slow " * 30, *PROMPTS, PROMPTS[0]])
    found = sampler.sample_each(text, range(5), frames, settings, 2)  # type: ignore[attr-defined]
    for row, (codes, log_probs) in enumerate(found):
        own = text[row : row + 1, : max(1, int((text[row] != 0).sum()))]
        alone, told = sampler.sample(own, [row], frames[row], settings)
        assert torch.equal(codes, alone[0]) and torch.equal(log_probs, told[0])


def test_half_precision_differs_by_the_rounding(mono: Path) -> None:
    policy, settings = load_policy(mono), SamplingSettings(0.9, 3.0)
    text = policy.encode_text(PROMPTS)
    for served in (policy, copy.deepcopy(policy).double()):
        codes, log_probs = sampler_of(served, "bfloat16").sample(text, [1, 2, 3], 20, settings)
        with torch.no_grad():
            gap = (gather(log_distribution(policy, codes, text, settings), codes) - log_probs).abs()
        assert 1e-4 < float(gap.mean()) < 0.05


def test_a_prefix_is_worked_out_once(mono: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each set of weights the chroma, of each call its different prompts and their null condition."""
    policy, settings = load_policy(mono), SamplingSettings(1.0, 3.0)
    rows: list[int] = []
    add = Prefill.add
    monkeypatch.setattr(Prefill, "add", lambda self, x, *given: (rows.append(len(x)), add(self, x, *given))[1])
    text, sampler = policy.encode_text([prompt for prompt in PROMPTS[:2] for _ in range(3)]), sampler_of(policy)
    words = [int((row != 0).sum()) for row in text[::3]]
    before = sampler.sample(text, range(6), FRAMES, settings)[1]
    assert sorted(rows) == sorted([9, *words, max(words)])
    rows.clear()
    sampler.sample(text, range(6), FRAMES, settings)
    assert sorted(rows) == sorted([*words, max(words)])
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    assert torch.equal(sampler.sample(text, range(6), FRAMES, settings)[1], before)
    sampler.refresh()
    codes, after = sampler.sample(text, range(6), FRAMES, settings)
    with torch.no_grad():
        taught = gather(log_distribution(policy, codes, text, settings), codes)
    assert (taught - after).abs().max() < 1e-5


@pytest.mark.parametrize("small", [True, False], ids=["rows", "columns"])
def test_two_threads_draw_the_same(mono: Path, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policy.musicgen.packed.SMALL_BYTES", 10**9 if small else 0)
    monkeypatch.setattr("policy.musicgen.packed.LEAST_WORK", 1000)
    policy, settings = load_policy(mono), SamplingSettings(1.0, 3.0)
    text, before, found = policy.encode_text(PROMPTS * 6), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found.append(sampler_of(policy).sample(text, range(18), FRAMES, settings))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_without_a_prompt_guidance_changes_nothing(mono: Path) -> None:
    """An empty prompt is its own null condition; any other's has as many places, without words."""
    policy = load_policy(mono)
    text, codes = policy.encode_text(PROMPTS), torch.zeros(3, 4, FRAMES, dtype=torch.int64)
    null = policy.null_of(text)
    assert torch.equal(policy.trunk.begins(null), policy.trunk.begins(text)) and not bool((null > 0).any())
    with torch.no_grad():
        plain, guided = policy(codes, text), policy(codes, text, guidance_scale=3.0)
        rows = sampler_of(policy).sample(null, [1, 2, 3], FRAMES, SamplingSettings(1.0, 3.0))
        taught = gather(log_distribution(policy, rows[0], null, SamplingSettings()), rows[0])
    assert (plain[2] - guided[2]).abs().max() < 1e-5 and (plain[1] - guided[1]).abs().max() > 0.1
    assert (
        taught - gather(log_distribution(policy, rows[0], null, SamplingSettings(0.99, 3.0)), rows[0])
    ).abs().max() < 1e-5


def test_clips_behind_a_prompt_that_leaves_the_table_of_positions(mono: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mono, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["max_position_embeddings"] = 40
    (folder / "config.json").write_text(json.dumps(config))
    policy, theirs, settings = load_policy(folder), transformers_model(folder), SamplingSettings(1.0, 3.0)
    text, frames = policy.encode_text(["slow " * 20]), policy.shapes.max_frames
    assert frames == 36
    for served in (policy, copy.deepcopy(policy).double()):
        codes, log_probs = sampler_of(served).sample(text, [1], frames, settings)
        with torch.no_grad():
            taught = gather(log_distribution(policy, codes, text, settings), codes)
            ours = policy(codes, text)
        assert (taught - log_probs).abs().max() < 1e-5
        assert (ours[0] - forced(theirs, policy, text, codes[0])).abs().max() < 1e-4


# ---- what cannot be used --------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"conditioners.self_wav.chroma_stem.argmax": False}, "chroma_stem.argmax is False"),
        ({"fuser.prepend": ["self_wav"], "fuser.cross": ["description"]}, "fuser has prepend ['self_wav'], cross"),
        ({"conditioners.self_wav.model": "style"}, "MusicGen-Style"),
        ({"conditioners.chords": {"model": "lut"}}, "'lut'"),
    ],
)
def test_other_conditions_of_audiocraft_are_refused_by_name(
    mono: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    save_audiocraft(load_policy(mono), tmp_path / "checkpoint")
    package = torch.load(tmp_path / "checkpoint" / "state_dict.bin", weights_only=True)
    config = OmegaConf.create(package["xp.cfg"])
    for key, value in change.items():
        OmegaConf.update(config, key, value, merge=False)
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, tmp_path / "checkpoint" / "state_dict.bin")
    assert says in refusal(tmp_path / "checkpoint")


def test_wrong_files_are_refused_by_name(mono: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(mono, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    for change, says in (
        ({"chroma_length": 4}, "chroma_length is 4; allowed at least 5"),
        ({"num_chroma": 7}, "audio_enc_to_dec_proj.weight has another shape"),
        ({"model_type": "musicgen"}, "unknown tensor 'audio_enc_to_dec_proj.bias'"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        assert says in refusal(folder)


def test_one_loose_file_without_a_configuration(tmp_path: Path) -> None:
    """As fine-tuning programs leave it: told by its tensors, with the prefix of the released ones."""
    shapes = RandomShapes(kind="melody", width=64, heads=1)
    policy, folder = load_policy(write_random(tmp_path / "melody", shapes)), tmp_path / "checkpoint"
    assert policy.shapes.chroma_places == 235
    save_audiocraft(policy, folder)
    package = torch.load(folder / "state_dict.bin", weights_only=True)
    assert OmegaConf.create(package["xp.cfg"]).dataset.segment_duration == 30
    (folder / "state_dict.bin").unlink()
    torch.save(package["best_state"], folder / "last.pt")
    assert load_policy(folder).shapes == policy.shapes


def test_the_command_makes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"out={tmp_path / 'm'}", "kind=melody", "chroma_places=9"]) == 0
    assert load_policy(tmp_path / "m").shapes.melody
    assert main([f"out={tmp_path / 'n'}", "kind=style"]) == 2
    assert "kind: got 'style', allowed musicgen, melody" in capsys.readouterr().err
