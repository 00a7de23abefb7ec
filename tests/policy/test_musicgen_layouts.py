"""MusicGen checkpoints of random weights: equal to transformers' model, the same bits through both layouts."""

from __future__ import annotations

import argparse
import json
import os
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
from policy.checkpoint import load_policy, policy_version, save_policy
from policy.musicgen.__main__ import main as export
from policy.musicgen.audiocraft import save_audiocraft
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from policy.port import SamplingSettings
from policy.samplers import sampler_of
from tests.policy.audiocraft_reader import LanguageModel

SHAPES = {
    "mono": RandomShapes(seed=1),
    "stereo": RandomShapes(stereo=True, seed=2),
    "mono_larger": RandomShapes(width=64, layers=3, heads=4, entries=128, text_width=40, seed=3),
    "stereo_larger": RandomShapes(width=64, layers=3, heads=4, entries=128, text_width=40, stereo=True, seed=4),
}
PROMPTS = ["slow piano", "upbeat jazz guitar with drums"]
FRAMES = 7


@pytest.fixture(scope="module", params=list(SHAPES))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("musicgen") / request.param, SHAPES[request.param])


def transformers_model(directory: Path) -> Any:
    import_torchaudio()  # transformers imports it, and a wheel for another torch would break that
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.MusicgenForConditionalGeneration.from_pretrained(directory).eval()


class Ear:
    """In the place of a codec's decode: keeps the codes that it should make sound of."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []

    def __call__(self, codes: Tensor, **_: Any) -> Any:
        self.heard.append(codes)
        return SimpleNamespace(audio_values=torch.zeros(codes.shape[1], 1, 8))


def some_codes(policy: Any, rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(policy.streams[0].size, (rows, len(policy.streams), FRAMES), generator=generator)


def test_logits_and_greedy_codes_equal_transformers(directory: Path) -> None:
    policy, theirs = load_policy(directory), transformers_model(directory)
    text, codes = policy.encode_text(PROMPTS), some_codes(policy, 2)
    mask, delays = (text != 0).long(), policy.shapes.delays
    sequence = policy.trunk.layout(FRAMES).to_sequence(codes, policy.shapes.entries)[..., :-1]
    with torch.no_grad():
        ours = policy(codes, text)
        logits = theirs(input_ids=text, attention_mask=mask, decoder_input_ids=sequence.flatten(0, 1)).logits
    logits = logits.unflatten(0, codes.shape[:2])
    expected = torch.stack([logits[:, k, d : d + FRAMES] for k, d in enumerate(delays)], dim=1)
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() < 1e-4

    for guidance in (1.0, 3.0):
        ear = Ear()
        theirs.audio_encoder.decode = ear
        with torch.no_grad():
            length = FRAMES + max(delays)
            theirs.generate(
                input_ids=text, attention_mask=mask, do_sample=False, guidance_scale=guidance, max_new_tokens=length
            )
        sides = [part[0] for part in ear.heard]
        greedy = sides[0] if len(sides) == 1 else torch.stack(sides, dim=2).flatten(1, 2)
        found, _ = sampler_of(policy).sample(text, [5, 6], FRAMES, SamplingSettings(1e-5, guidance))
        assert torch.equal(found, greedy)


def test_both_layouts_keep_every_bit(directory: Path, tmp_path: Path) -> None:
    policy, codec = load_policy(directory), load_codec(directory)
    save_audiocraft(policy, tmp_path / "audiocraft")
    save_policy(load_policy(tmp_path / "audiocraft"), tmp_path / "transformers")
    before, after = (
        transformers_model(directory).state_dict(),
        transformers_model(tmp_path / "transformers").state_dict(),
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for folder in (tmp_path / "audiocraft", tmp_path / "transformers"):
        again = load_policy(folder)
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in policy.state_dict().items())
        assert load_codec(folder).version == codec.version  # type: ignore[attr-defined]
        assert policy_version(folder) != policy_version(directory)
    config = json.loads((tmp_path / "transformers" / "config.json").read_text())
    assert config["model_type"] == "musicgen" and config["decoder"]["num_codebooks"] == len(policy.streams)


def test_an_independent_reader_of_audiocraft_agrees(directory: Path, tmp_path: Path) -> None:
    policy = load_policy(directory)
    save_audiocraft(policy, tmp_path)
    reader = LanguageModel(tmp_path, policy.shapes.text_width)
    text, codes = policy.encode_text(PROMPTS), some_codes(policy, 2)
    with torch.no_grad():
        ours = policy(codes, text)
    for row in range(2):  # one prompt at a time: audiocraft attends to the padding of a batch
        alone = text[row : row + 1, : int((text[row] != 0).sum())]
        theirs = reader(codes[row : row + 1], policy.prompts.states(alone))
        assert (ours[row] - theirs[0]).abs().max() < 1e-4
    codec = torch.load(tmp_path / "compression_state_dict.bin", weights_only=True)
    config = OmegaConf.create(codec["xp.cfg"])
    assert config.compression_model == "encodec" and config.seanet.true_skip and config.rvq.n_q == 4
    assert codec["best_state"]["quantizer.vq.layers.3._codebook.embed"].shape == (policy.shapes.entries, 16)
    assert "decoder.model.3.convtr.convtr.weight_g" in codec["best_state"]


def test_codec_equals_transformers(directory: Path) -> None:
    theirs, codec = transformers_model(directory).audio_encoder, load_codec(directory)
    sizes, channels = codec.codebook_sizes, codec.channels
    codes = torch.randint(sizes[0], (2, len(sizes), 9), generator=torch.Generator().manual_seed(0))
    pcm = codec.decode(codes)
    assert pcm.shape == (2, channels, 9 * 640) and codec.frame_rate_hz == 50.0
    for side in range(channels):
        with torch.no_grad():
            expected = theirs.decode(codes[None, :, side::channels], [None]).audio_values
        assert (pcm[:, side] - expected[:, 0].clamp(-1, 1)).abs().max() < 1e-5
        found = codec.encode(pcm)[:, side::channels]
        with torch.no_grad():
            assert torch.equal(found, theirs.encode(pcm[:, side : side + 1]).audio_codes[0])
    assert codec.decode_log_mel(codes).shape == (2, 64, 9)


# ---- what cannot be used ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("mono"), SHAPES["mono"])


@pytest.fixture()
def audiocraft(mono: Path, tmp_path: Path) -> Path:
    save_audiocraft(load_policy(mono), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample_rate": 16_000}, "AudioGen"),
        ({"conditioners.self_wav": {"model": "style"}}, "MusicGen-Style"),
        ({"conditioners.self_wav": {"model": "chroma_stem"}}, "MusicGen-Melody"),
        ({"lm_model": "transformer_lm_magnet"}, "MAGNeT"),
        ({"codebooks_pattern.modeling": "parallel"}, "pattern 'parallel'"),
        ({"transformer_lm.positional_embedding": "rope"}, "positional_embedding"),
    ],
)
def test_other_models_of_audiocraft_are_refused_by_name(audiocraft: Path, change: dict[str, Any], says: str) -> None:
    package = torch.load(audiocraft / "state_dict.bin", weights_only=True)
    config = OmegaConf.create(package["xp.cfg"])
    for key, value in change.items():
        OmegaConf.update(config, key, value)
    torch.save({**package, "xp.cfg": OmegaConf.to_yaml(config)}, audiocraft / "state_dict.bin")
    assert says in refusal(audiocraft)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "audiogen"}, "AudioGen"),
        ({"model_type": "musicgen_melody"}, "lacks tensor 'audio_enc_to_dec_proj.bias'"),
        ({"model_type": "musicgen_melody_decoder"}, "decoder alone"),
        ({"model_type": "musicgen_decoder"}, "decoder alone"),
        ({"model_type": "bert"}, "'bert'"),
        ({"text_encoder": None}, "lacks text_encoder"),
    ],
)
def test_other_models_of_transformers_are_refused_by_name(
    mono: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = shutil.copytree(mono, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    assert says in refusal(folder)


def test_broken_files_are_refused_and_nothing_is_run(mono: Path, audiocraft: Path, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    state = (audiocraft / "state_dict.bin").read_bytes()
    torch.save({"best_state": Touch()}, audiocraft / "state_dict.bin")
    assert "posix.system" in refusal(audiocraft)
    torch.save({"best_state": Touch()}, audiocraft / "state_dict.bin", _use_new_zipfile_serialization=False)
    assert "posix.system" in refusal(audiocraft)
    assert not (tmp_path / "run").exists()
    torch.save({"best_state": argparse.Namespace(rate=1)}, audiocraft / "state_dict.bin")  # harmless, but no tensor
    assert "names argparse.Namespace" in refusal(audiocraft)
    (audiocraft / "state_dict.bin").write_bytes(state[: len(state) // 2])
    assert "truncated" in refusal(audiocraft)

    folder = shutil.copytree(mono, tmp_path / "copy")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "truncated" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "without model.safetensors" in refusal(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter" in refusal(folder)


def test_wrong_tensors_are_refused_by_name(audiocraft: Path) -> None:
    package = torch.load(audiocraft / "state_dict.bin", weights_only=True)
    state = package["best_state"]
    for change, says in (
        ({"out_norm.bias": None}, "lacks tensor 'decoder.model.decoder.layer_norm.bias'"),
        ({"extra.weight": torch.ones(1)}, "unknown tensor 'extra.weight'"),
        ({"out_norm.bias": torch.zeros(3)}, "another shape"),
        ({"out_norm.bias": torch.full_like(state["out_norm.bias"], torch.nan)}, "not finite"),
    ):
        changed = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        torch.save({**package, "best_state": changed}, audiocraft / "state_dict.bin")
        assert says in refusal(audiocraft)


def test_audiocraft_without_text_encoder_says_what_to_do(audiocraft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(audiocraft / "no-cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    cache = audiocraft / "no-cache" / "hub" / "models--t5-base" / "snapshots" / "a1"
    cache.parent.mkdir(parents=True)
    (audiocraft / "text_encoder").rename(cache)
    load_policy(audiocraft)  # found in the hub's cache
    cache.rename(audiocraft / "elsewhere")
    copy = shutil.copytree(audiocraft, audiocraft.parent / "without")
    assert "t5-base" in refusal(copy)


def test_files_of_fine_tuning_programs(tmp_path: Path) -> None:
    """One loose file: a solver's state below best_state.model, a trainer's with a prefix, bare tensors."""
    mono = write_random(tmp_path / "mono", RandomShapes(width=64, heads=1))  # 64 wide, as heads of released models are
    policy, audiocraft = load_policy(mono), tmp_path / "checkpoint"
    save_audiocraft(policy, audiocraft)
    package = torch.load(audiocraft / "state_dict.bin", weights_only=True)
    config = OmegaConf.create(package["xp.cfg"])  # pickled as such, with its classes
    (audiocraft / "state_dict.bin").unlink()
    solver = {"best_state": {"model": package["best_state"]}, "xp.cfg": config, "history": [{"loss": 1.0}]}
    trainer = {"state_dict": {f"model.{name}": tensor for name, tensor in package["best_state"].items()}}
    for name, content in (("checkpoint.th", solver), ("last.ckpt", trainer), ("lm_final.pt", package["best_state"])):
        torch.save(content, audiocraft / name)
        again = load_policy(audiocraft)
        assert again.shapes == policy.shapes
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in policy.state_dict().items())
        (audiocraft / name).unlink()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def test_a_codec_that_is_only_named_comes_from_another_directory(mono: Path, audiocraft: Path) -> None:
    torch.save({"pretrained": "facebook/encodec_32khz"}, audiocraft / "compression_state_dict.bin")
    with pytest.raises(UserError, match=r"names facebook/encodec_32khz instead of holding it; set codec.checkpoint"):
        load_codec(audiocraft)
    assert load_codec(mono).codebook_sizes == tuple(stream.size for stream in load_policy(audiocraft).streams)


def test_the_export_command(mono: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"policy={mono}", f"out={tmp_path / 'out'}", "layout=audiocraft", "dtype=float16"]
    assert export(words) == 0 and "CC-BY-NC" in capsys.readouterr().out
    state = torch.load(tmp_path / "out" / "state_dict.bin", weights_only=True)["best_state"]
    assert all(tensor.dtype == torch.float16 for tensor in state.values())
    halved = load_policy(tmp_path / "out").state_dict()
    assert all(
        torch.equal(halved[name], tensor.half().float()) for name, tensor in load_policy(mono).state_dict().items()
    )
    for changed, says in (
        (words, "out: got"),
        ([*words[:2], "layout=onnx"], "layout: got 'onnx'"),
        ([f"policy={tmp_path}", *words[1:]], "policy: got"),
        ([*words[:3], "dtype=int8"], "dtype: got 'int8'"),
    ):
        assert export(changed) == 2 and says in capsys.readouterr().err
