"""EnCodec behind the port, on random weights, and torchaudio beside whatever torch is installed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cluster.errors import UserError
from codec.checkpoint import load_codec
from codec.encodec_codec import EncodecCodec, random_model
from codec.log_mel import log_mel
from codec.port import Codec
from codec.torchaudio_guard import import_encodec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def codec() -> EncodecCodec:
    torch.set_num_threads(1)
    return EncodecCodec(random_model(seed=0), bandwidth_kbps=6.0)


@pytest.fixture(scope="module")
def checkpoint(codec: EncodecCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encodec")
    codec.save(directory)
    return directory


def noise(rows: int, samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(rows, 1, samples, generator=torch.Generator().manual_seed(1))


def test_port_and_units(codec: EncodecCodec) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate_hz, codec.channels, codec.frame_rate_hz) == (24_000, 1, 75.0)
    assert codec.codebook_sizes == (1024,) * 8  # 6 kbit/s / (75 Hz * 10 bit)
    assert EncodecCodec(codec.model, 24.0).codebook_sizes == (1024,) * 32


def test_shapes_and_ranges(codec: EncodecCodec) -> None:
    codes = codec.encode(noise(2, 24_000))
    assert codes.shape == (2, 8, 75) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 1024 and codes.unique().numel() > 50
    pcm = codec.decode(codes)
    assert pcm.shape == (2, 1, 24_000) and pcm.abs().max() <= 1 and torch.isfinite(pcm).all()
    assert not torch.equal(codec.decode(codes[:, :2]), pcm)  # fewer levels: coarser, same length
    assert codec.decode(codes[:, :2]).shape == pcm.shape


def test_agrees_with_the_package(codec: EncodecCodec) -> None:
    pcm = noise(2, 9_600)
    codec.model.set_target_bandwidth(6.0)
    with torch.no_grad():
        (codes, _), *more = codec.model.encode(pcm)
        decoded = codec.model.decode([(codes, None)])
    assert not more and torch.equal(codec.encode(pcm), codes)
    torch.testing.assert_close(codec.decode(codes), decoded.clamp(-1, 1), rtol=0, atol=1e-6)


def test_log_mel_is_that_of_the_decoded_audio_at_16_khz(codec: EncodecCodec) -> None:
    """The spectrum of a tone sits in the same band whichever rate it came from."""
    codes = codec.encode(noise(1, 24_000))
    assert codec.decode_log_mel(codes).shape == (1, 64, 50)

    class Tone(EncodecCodec):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            seconds = torch.arange(320 * codes.shape[-1]) / 24_000
            return 0.5 * torch.sin(2 * torch.pi * 1000 * seconds).expand(1, 1, -1)

    direct = log_mel(0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)[None])
    seen = Tone(codec.model, 6.0).decode_log_mel(codes)
    peak = int(direct[0, :, 25].argmax())
    assert int(seen[0, :, 25].argmax()) == peak
    torch.testing.assert_close(seen[0, peak, 5:-5], direct[0, peak, 5:-5], rtol=0, atol=0.01)


def test_round_trip_through_the_checkpoint_dispatch(codec: EncodecCodec, checkpoint: Path) -> None:
    loaded = load_codec(checkpoint)
    pcm = noise(1, 4_800)
    assert loaded.version == codec.version
    assert torch.equal(loaded.encode(pcm), codec.encode(pcm))
    assert EncodecCodec(random_model(seed=1), 6.0).version != codec.version


def test_the_packages_own_checkpoint_file(codec: EncodecCodec, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    torch.save(codec.model.state_dict(), tmp_path / "encodec_24khz-d7cc33bc.th")
    assert EncodecCodec.load(tmp_path).version == codec.version


def damaged(checkpoint: Path, directory: Path, how: str) -> None:
    config, weights = (checkpoint / "config.json").read_text(), (checkpoint / "model.safetensors").read_bytes()
    if how == "truncated weights":
        weights = weights[: len(weights) // 2]
    elif how == "other kind":
        config = json.dumps({"kind": "tiny_musiclm"})
    elif how == "other model":
        config = json.dumps({"kind": "encodec", "model": "encodec_48khz"})
    elif how == "no json":
        config = "{"
    elif how == "bandwidth":
        config = json.dumps({"kind": "encodec", "bandwidth_kbps": 5})
    (directory / "config.json").write_text(config)
    if how == "pickled code":
        (directory / "encodec_24khz-0.th").write_bytes(pickle.dumps(os.system, protocol=2))
    elif how != "no weights":
        (directory / "model.safetensors").write_bytes(weights)


@pytest.mark.parametrize(
    "how",
    ["truncated weights", "other kind", "other model", "no json", "bandwidth", "no weights", "pickled code"],
)
def test_bad_checkpoints_are_refused_in_one_line(checkpoint: Path, tmp_path: Path, how: str) -> None:
    damaged(checkpoint, tmp_path, how)
    with pytest.raises(UserError, match=r"^codec.*: got .*allowed") as error:
        EncodecCodec.load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_directory_and_wrong_shapes(codec: EncodecCodec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        EncodecCodec.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="pcm"):
        codec.encode(torch.zeros(2, 24_000))
    with pytest.raises(ValueError, match="codes"):
        codec.decode(torch.zeros(1, 9, 10, dtype=torch.int64))


IMPORTS = """
import sys
from codec.torchaudio_guard import import_encodec, import_torchaudio
encodec = import_encodec()
import torchaudio, torch                      # the plain import works from here on
assert import_torchaudio() is torchaudio is sys.modules["torchaudio"]
assert torchaudio.functional.resample(torch.zeros(1, 240), 24000, 16000).shape == (1, 160)
assert encodec.EncodecModel.encodec_model_24khz(pretrained=False).sample_rate == 24000
print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)


def test_torchaudio_and_encodec_import_in_a_fresh_process() -> None:
    done = run(IMPORTS)
    assert done.returncode == 0, done.stderr
    plain = run("import torchaudio")
    # the native extension is used exactly where the untouched import works
    assert done.stdout.strip() == str(plain.returncode == 0)


def test_an_extension_that_cannot_be_loaded_counts_as_absent() -> None:
    """Whatever is installed here: torch refuses the library, as it does beside another build."""
    broken = "import torch\ndef refuse(path): raise OSError('libcudart.so: cannot open shared object file')\n"
    done = run(broken + "torch.ops.load_library = refuse\n" + IMPORTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "encodec", None)
    with pytest.raises(UserError, match="without the package encodec, allowed: pip install encodec"):
        import_encodec()
