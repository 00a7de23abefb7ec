"""Fine-tuning on audio of one's own: it learns, lists what it cannot use, resumes bit for bit, and what it writes is a
policy again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.audio_list import list_audio, read_captions
from codec.checkpoint import save_codec
from codec.semantic import SemanticConfig, SemanticFeatures, SemanticTokenizer, save_semantic
from configs.paths import PROJECT_ROOT
from learner.audio_material import held_out
from learner.fine_tune import FineTuneSettings
from learner.pretrain import main
from learner.supervised import SupervisedTraining
from policy.checkpoint import load_policy, save_policy
from policy.musicgen.random_checkpoint import write_random
from tests.evaluation.tiny_parts import tiny_codec, tiny_policy

FLACS = sorted((PROJECT_ROOT / "assets/tiny/test_clips/flac").glob("*.flac"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A small policy, its codec and its semantic tokenizer."""
    root = tmp_path_factory.mktemp("parts")
    save_policy(tiny_policy(), root / "policy")
    save_codec(tiny_codec(), root / "codec")
    torch.manual_seed(0)
    config = SemanticConfig(entries=8)
    centroids = torch.nn.functional.normalize(torch.randn(8, config.features), dim=1)
    save_semantic(SemanticTokenizer(SemanticFeatures(config).eval(), centroids, config), root / "semantic")
    return root


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> Path:
    """Twelve clips of real tunes with captions in a table; five more files that cannot be used."""
    root = tmp_path_factory.mktemp("audio")
    lines = ["file_name,caption"]
    for path in FLACS[:12]:
        (root / path.name).write_bytes(path.read_bytes())
        lines.append(f"{path.name},slow piano")
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.normal(size=(32_000, 2))
    soundfile.write(root / "uncaptioned.wav", noise, 16_000)
    soundfile.write(root / "telephone.wav", noise[:, 0], 4000)
    soundfile.write(root / "short.wav", noise[:4000], 16_000)
    (root / "broken.wav").write_bytes(b"RIFF and then nothing")
    lines += ["telephone.wav,fast flute", "short.wav,fast flute", "broken.wav,fast flute", "gone.wav,fast flute"]
    (root / "captions.csv").write_text("\n".join(lines) + "\n")
    return root


def words(parts: Path, data: Path | str, out: Path, **more: object) -> list[str]:
    settings = {"steps": 40, "learning_rate": 0.01, "seconds": 1, "samples": 2, "threads": 1, "checkpoint_every": 10}
    given = [f"{key}={value}" for key, value in {**settings, **more}.items()]
    places = [f"policy.checkpoint={parts / 'policy'}", f"codec.checkpoint={parts / 'codec'}"]
    return [*places, f"semantic={parts / 'semantic'}", f"data={data}", f"out={out}", *given]


def test_it_learns_lists_what_it_cannot_use_and_writes_a_policy(parts, audio, tmp_path, capsys):
    assert main(words(parts, audio, tmp_path)) == 0
    told = capsys.readouterr().out
    for name, reason in {
        "uncaptioned.wav": "no caption",
        "telephone.wav": "4000 Hz, allowed at least 8000 Hz",
        "short.wav": "0.2 s, shorter than a sequence of 1 s",
        "broken.wav": "not readable as audio",
        "gone.wav": "no such audio file",
    }.items():
        assert any(name in line and reason in line for line in told.splitlines()), (name, told)
    assert len((tmp_path / "problems.txt").read_text().splitlines()) == 5
    facts = json.loads((tmp_path / "training.json").read_text())
    assert (facts["files"], facts["files_not_used"], facts["steps"]) == (12, 5, 40)
    assert facts["valid_bits_after"] < facts["valid_bits_before"] - 0.1
    curve = [json.loads(line) for line in (tmp_path / "policy" / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [10, 20, 30, 40]
    assert curve[-1]["train"] < curve[0]["train"] and "valid" in curve[-1]
    policy = load_policy(tmp_path / "policy")
    assert any(not torch.equal(a, b) for a, b in zip(policy.parameters(), tiny_policy().parameters(), strict=True))
    for step in (0, 40):
        folder = tmp_path / "samples" / f"step_{step}"
        assert json.loads((folder / "captions.json").read_text()) == {"000.wav": "slow piano"}
        assert soundfile.info(str(folder / "000.wav")).frames == 16_000


def test_a_stopped_command_goes_on_bit_for_bit_without_encoding_again(parts, audio, tmp_path, monkeypatch, capsys):
    assert main(words(parts, audio, tmp_path / "whole", steps=25)) == 0
    update = SupervisedTraining.update

    def stops(self: SupervisedTraining) -> float:
        if self.step == 17:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(SupervisedTraining, "update", stops)
    assert main(words(parts, audio, tmp_path / "stopped", steps=25)) == 130
    monkeypatch.setattr(SupervisedTraining, "update", update)
    monkeypatch.setattr("learner.fine_tune.encode_files", None)  # not needed: the tokens are there
    capsys.readouterr()
    assert main(words(parts, audio, tmp_path / "stopped", steps=25)) == 0
    assert "goes on from step 10" in capsys.readouterr().out
    whole, stopped = (load_policy(tmp_path / name / "policy") for name in ("whole", "stopped"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters(), strict=True))


def test_an_audiocraft_manifest_and_a_musicgen(tmp_path, capsys):
    """Captions from the .json beside the audio; one entry lies about its rate, one has no file."""
    write_random(tmp_path / "musicgen")
    rng = np.random.default_rng(1)
    entries = []
    for place in range(6):
        path = tmp_path / "tracks" / f"{place}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=2 * 44_100), 44_100)
        path.with_suffix(".json").write_text(json.dumps({"title": "x", "description": "calm piano"}))
        entries.append({"path": str(path), "duration": 2.0, "sample_rate": 44_100 if place else 48_000})
    entries.append({"path": str(tmp_path / "tracks" / "none.wav"), "duration": 1.0, "sample_rate": 44_100})
    text = "\n".join(json.dumps(entry) for entry in entries) + "\nnot json\n"
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    more = ["steps=3", "batch_size=2", "seconds=1", "samples=1", "threads=1", "learning_rate=0.001"]
    places = [
        f"policy.checkpoint={tmp_path / 'musicgen'}",
        f"data={tmp_path / 'data.jsonl.gz'}",
        f"out={tmp_path / 'o'}",
    ]
    assert main([*places, *more]) == 0
    told = capsys.readouterr().out
    assert "the manifest says 48000 Hz, the file 44100 Hz" in told and "none.wav: no such file" in told
    assert "line 8 is no JSON object" in told
    assert json.loads((tmp_path / "o" / "training.json").read_text())["files"] == 5
    assert len(load_policy(tmp_path / "o" / "policy").streams) == 4
    assert list((tmp_path / "o" / "samples" / "step_3").glob("*.wav"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "/nowhere"}, "data: got '/nowhere' (no such folder or file)"),
        ({"data": "{parts}"}, "without audio"),
        ({"seconds": 3}, "seconds: got 3, allowed up to 1.28, the policy's longest"),
        ({"codec.checkpoint": "{parts}/semantic"}, "codec: got a checkpoint of kind"),
        ({"policy.checkpoint": "{parts}/codec"}, "policy.checkpoint: got kind"),
        ({"captions": "{parts}/policy/model.safetensors"}, "captions: got"),
        ({"step": 3}, "step: unknown key, did you mean steps?"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(parts, audio, tmp_path, change, said, capsys):
    given = dict(word.split("=", 1) for word in words(parts, audio, tmp_path / "out"))
    given |= {key: str(value).format(parts=parts) for key, value in change.items()}
    assert main([f"{key}={value}" for key, value in given.items()]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert not (tmp_path / "out" / "policy").exists()


def test_a_folder_begun_with_other_data_is_refused(parts, audio, tmp_path, capsys):
    assert main(words(parts, audio, tmp_path / "out", steps=1)) == 0
    assert main(words(parts, audio, tmp_path / "out", steps=1, seconds=0.8)) == 2
    assert "begun from another policy or other data" in capsys.readouterr().err


def test_whole_files_are_held_out_where_there_are_many_and_ends_where_there_are_few():
    from learner.audio_material import Sequences

    files = tuple(list_audio(FLACS[0].parent).files[:12])
    many = Sequences(np.zeros((36, 1, 4), np.uint16), np.repeat(np.arange(12), 3), files, ())
    learnt, valid = held_out(many, 0.2, seed=0)
    assert not set(many.file[learnt]) & set(many.file[valid]) and len(valid) == 6
    few = Sequences(np.zeros((20, 1, 4), np.uint16), np.repeat([0, 1], 10), files[:2], ())
    learnt, valid = held_out(few, 0.2, seed=0)
    assert valid.tolist() == [8, 9, 18, 19] and len(learnt) == 16


def test_captions_from_every_kind_of_table(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.json").write_text(json.dumps({"x.wav": "slow", "y.wav": {"description": "fast"}}))
    (tmp_path / "b.jsonl").write_text('{"path": "x.wav", "text": "slow"}\n{"path": "y.wav", "caption": "fast"}\n')
    (tmp_path / "c.csv").write_text("file,prompt\nx.wav,slow\ny.wav,fast\n")
    pq.write_table(pa.table({"name": ["x.wav", "y.wav"], "caption": ["slow", "fast"]}), tmp_path / "d.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert read_captions(path) == {"x.wav": "slow", "y.wav": "fast"}, path


def test_the_defaults_are_those_of_the_help(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "fine-tuning:" in told and f"learning_rate={FineTuneSettings.learning_rate}" in told
