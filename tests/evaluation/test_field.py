"""The commands `field` and `musiccaps` on real files: what they measure, what they list, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.audio import read_audio
from configs.paths import PROJECT_ROOT
from evaluation.main import main
from evaluation.musiccaps import ytid_of
from evaluation.test_set import load_test_set

CLIPS = PROJECT_ROOT / "assets/tiny/test_clips"
FLACS = sorted((CLIPS / "flac").glob("*.flac"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Twelve real clips with captions, and twelve of the same names drowned in noise; two files of each are broken."""
    root = tmp_path_factory.mktemp("field")
    captions = load_test_set(CLIPS).captions
    real, noisy = root / "real", root / "noisy"
    real.mkdir()
    noisy.mkdir()
    rng = np.random.default_rng(0)
    for place, path in enumerate(FLACS[:12]):
        pcm, rate_hz = read_audio(path)
        soundfile.write(real / f"{path.stem}.wav", pcm.T, rate_hz)
        soundfile.write(noisy / f"{path.stem}.flac", (pcm + 0.3 * rng.normal(size=pcm.shape)).clip(-1, 1).T, rate_hz)
        (noisy / f"{path.stem}.json").write_text(json.dumps({"description": captions[place]}))
    (real / "broken.wav").write_bytes(b"RIFF but no more")
    soundfile.write(noisy / "short.wav", np.zeros(20), 16_000)
    return real, noisy


def measures(out: Path) -> dict[str, dict]:
    return {entry["name"]: entry for entry in json.loads((out / "field.json").read_text())["measures"]}


def test_field_measures_folders_and_lists_what_it_cannot_read(folders, tmp_path, capsys):
    real, noisy = folders
    words = [f"out={tmp_path}", "classifier=assets/tiny/judges/attributes", "resamples=20"]
    assert main(["field", str(real), str(noisy), *words]) == 0
    told = capsys.readouterr()
    assert "12 generated clips against 12" in told.out and "CLAP score" in told.out
    assert "broken.wav: not readable as audio" in told.err and "short.wav: shorter than" in told.err
    apart = measures(tmp_path)
    assert set(apart) == {"FAD", "KAD", "CLAP score", "KL"}  # too few clips for FAD-inf
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in apart.values())
    assert apart["KL"]["value"] > 0.1
    # the same clips again: no distance, and the saved embeddings say what the files said
    assert main(["field", str(real), str(real), f"out={tmp_path / 'same'}", "resamples=20"]) == 0
    same = measures(tmp_path / "same")
    assert same["FAD"]["value"] == pytest.approx(0, abs=1e-5) and same["KAD"]["value"] < 0 < apart["KAD"]["value"]
    assert main(["field", str(tmp_path / "reference.npy"), str(tmp_path / "generated.npy"), "resamples=20"]) == 0
    assert f"{apart['KAD']['value']:.4f}" in capsys.readouterr().out


def test_field_hears_only_the_seconds_it_is_told(folders, tmp_path):
    real, noisy = folders
    for seconds in ("0", "1"):
        words = [f"out={tmp_path / seconds}", f"seconds={seconds}", "resamples=20"]
        assert main(["field", str(real), str(noisy), *words]) == 0
    assert measures(tmp_path / "0")["FAD"]["value"] != measures(tmp_path / "1")["FAD"]["value"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{real}", "{root}/nowhere"], "GENERATED: got"),
        (["{real}", "{real}", "embedding=nowhere"], "embedding: got 'nowhere'"),
        (["{real}", "{real}", "embedding=assets/tiny/judges/tempo"], "places no clips in a space"),
        (["{real}", "{real}", "embedding=assets/tiny/codec"], "embedding: got a model of kind"),
        (["{real}", "{real}", "classifier=assets/tiny/text_adherence"], "classifier: got"),
        (["{real}", "{real}", "resample=3"], "did you mean resamples?"),
        (["{real}", "{root}/bad.npy"], "GENERATED: got"),
        (["{real}", "{root}/wide.npy"], "widths"),
        (["{root}/wide.npy", "{root}/one.npy"], "GENERATED: got 1 usable clips"),
    ],
)
def test_field_refuses_in_one_line(folders, tmp_path, words, said, capsys):
    np.save(tmp_path / "bad.npy", np.full((3, 4), np.nan))
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(4, 7)))
    np.save(tmp_path / "one.npy", np.zeros((1, 7)))
    assert main(["field", *(word.format(real=folders[0], root=tmp_path) for word in words)]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "ytid"),
    [
        ("-0Gj8-vB1q4.wav", "-0Gj8-vB1q4"),
        ("[-0Gj8-vB1q4]-[30-40].wav", "-0Gj8-vB1q4"),
        ("-0Gj8-vB1q4_30_40.flac", "-0Gj8-vB1q4"),
        ("abcdefghijkl.wav", ""),
        ("-0Gj8-vB1q4.30-40.flac", "-0Gj8-vB1q4"),
        ("short.wav", ""),
    ],
)
def test_the_video_id_is_read_from_the_file_name(name, ytid):
    assert ytid_of(Path(name)) == ytid


def write_caps(root: Path, ids: list[str]) -> Path:
    lines = [f'{ytid},30,40,"[]","slow piano, calm"' for ytid in ids]
    (root / "caps.csv").write_text("ytid,start_s,end_s,aspect_list,caption\n" + "\n".join(lines) + "\n")
    return root / "caps.csv"


def test_musiccaps_generates_cuts_lists_what_is_missing_and_goes_on(tmp_path, capsys):
    ids = [f"abcdefghi{i:02d}" for i in range(6)]
    table, clips, out = write_caps(tmp_path, ids), tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    rng = np.random.default_rng(1)
    for ytid in ids[:3]:
        soundfile.write(clips / f"{ytid}.wav", 0.1 * rng.normal(size=160_000), 16_000)
    video = np.zeros(50 * 8000)
    video[30 * 8000 : 40 * 8000] = 0.5  # the clip itself, inside the whole video
    soundfile.write(clips / f"[{ids[3]}]-[whole].wav", video, 8000)
    (clips / f"{ids[4]}.wav").write_bytes(b"nothing")
    words = ["policy=assets/tiny/policy", "length_s=2", f"out={out}", "n=5", "resamples=20", "seconds=4"]
    assert main(["musiccaps", str(table), str(clips), *words]) == 0
    found = json.loads((out / "field.json").read_text())
    assert (found["captions"], found["missing_real"], found["missing_generated"]) == (5, 1, 0)
    assert {"FAD", "KAD", "CLAP score"} <= {entry["name"] for entry in found["measures"]}
    assert f"real {clips / ids[4]}.wav: not readable" in (out / "missing.txt").read_text()
    cut, rate_hz = read_audio(out / "cut" / f"{ids[3]}.wav")
    assert cut.shape[1] == 10 * rate_hz and cut.min() > 0.49
    heard = {path.name: path.stat().st_mtime_ns for path in (out / "generated").iterdir()}
    assert len(heard) == 5
    # again with all captions: only the sixth is generated
    assert main(["musiccaps", str(table), str(clips), *(word for word in words if word != "n=5")]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in (out / "generated").iterdir()}
    assert len(again) == 6 and all(again[name] == time for name, time in heard.items())
    assert (
        "real" in (out / "missing.txt").read_text().splitlines()[-1] and "missing" in (out / "missing.txt").read_text()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "generated: give either"),
        (["policy=assets/tiny/policy", "generated=x"], "generated: give either"),
        (["policy=assets/tiny/policy", "length_s=100"], "CLIPS_DIR"),
    ],
)
def test_musiccaps_refuses_in_one_line(tmp_path, words, said, capsys):
    table = write_caps(tmp_path, ["abcdefghi01"])
    (tmp_path / "empty").mkdir()
    assert main(["musiccaps", str(table), str(tmp_path / "empty"), *words]) == 2
    assert said in capsys.readouterr().err


def test_musiccaps_names_a_missing_column(tmp_path, capsys):
    (tmp_path / "caps.csv").write_text("ytid,caption\na,b\n")
    assert main(["musiccaps", str(tmp_path / "caps.csv"), str(tmp_path), "generated=x"]) == 2
    assert "without the column start_s" in capsys.readouterr().err
