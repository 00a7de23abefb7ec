"""The world's codec: the port's contract, checkpoints good and bad, training that learns and does not collapse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.errors import UserError
from codec.checkpoint import load_codec, save_codec
from codec.log_mel import log_mel
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from codec.port import Codec
from codec.train import CodecTraining, measure, spectral_losses, train_codec

SMALL = MagnitudeCodecConfig(width=32, hidden=48, blocks=1, latent=8, levels=3, entries=16)
SHIPPED = Path(__file__).parents[2] / "assets" / "tiny" / "codec"


class Notes:
    """Clips of five notes with overtones: enough variety to fill small codebooks."""

    def __init__(self, count: int, seed: int) -> None:
        rng, t = np.random.default_rng(seed), np.arange(8000) / 16_000
        clips = []
        for _ in range(count):
            hz = 110 * 2 ** (rng.integers(0, 36, size=5) / 12)
            notes = [sum(np.sin(2 * math.pi * f * n * t) / n for n in range(1, 6)) * np.exp(-t * 3) for f in hz]
            clips.append(0.2 * np.concatenate(notes) + 0.001 * rng.standard_normal(40_000))
        self.clips = torch.tensor(np.array(clips), dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.clips)

    def pcm(self, indices: object) -> Tensor:
        return self.clips[torch.as_tensor(np.asarray(indices))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MagnitudeCodec, Path, list[str]]:
    folder, said = tmp_path_factory.mktemp("codec"), []
    training = CodecTraining(steps=120, batch=6, rate=4e-3, free_share=0.4, report_s=1e9)
    codec = train_codec(Notes(64, 0), Notes(16, 1), folder, training, SMALL, said.append)
    return codec, folder, said


def test_it_is_a_codec_with_the_units_it_names() -> None:
    codec = MagnitudeCodec(SMALL).eval()
    assert isinstance(codec, Codec)
    assert (codec.sample_rate_hz, codec.channels, codec.frame_rate_hz) == (16_000, 1, 25.0)
    assert codec.codebook_sizes == (16, 16, 16)
    codes = codec.encode(torch.randn(2, 1, 16_000) * 0.1)
    assert codes.shape == (2, 3, 25)
    assert codec.decode(codes[:, :1]).shape == (2, 1, 16_000)
    assert codec.decode_log_mel(codes).shape == (2, 64, 50)


def test_a_part_of_a_frame_at_the_end_is_dropped() -> None:
    assert MagnitudeCodec(SMALL).eval().encode(torch.randn(1, 1, 16_000 + 639)).shape == (1, 3, 25)


def test_wrong_shapes_are_refused() -> None:
    codec = MagnitudeCodec(SMALL).eval()
    with pytest.raises(ValueError, match="pcm: got shape"):
        codec.encode(torch.zeros(1, 2, 16_000))
    with pytest.raises(ValueError, match="codes: got shape"):
        codec.decode(torch.zeros(1, 4, 10, dtype=torch.long))


def test_decoding_twice_is_equal_bit_for_bit(trained: tuple[MagnitudeCodec, Path, list[str]]) -> None:
    codec = trained[0]
    codes = codec.encode(Notes(2, 5).pcm([0, 1])[:, None])
    assert torch.equal(codec.decode(codes), codec.decode(codes))


def test_training_learns_and_every_codebook_is_used(trained: tuple[MagnitudeCodec, Path, list[str]]) -> None:
    torch.manual_seed(0)
    blank = measure(MagnitudeCodec(SMALL), Notes(16, 1), range(16))
    figures = measure(trained[0], Notes(16, 1), range(16))
    assert figures["mel_l1"][-1] < 0.5 * blank["mel_l1"][-1]
    assert figures["mel_l1"][-1] < figures["mel_l1"][0]
    assert min(figures["perplexity"]) > 6  # of 16


def test_log_mel_of_the_codes_is_what_the_decoded_sound_has(trained: tuple[MagnitudeCodec, Path, list[str]]) -> None:
    codec = trained[0]
    codes = codec.encode(Notes(4, 5).pcm(range(4))[:, None])
    direct, heard = codec.decode_log_mel(codes), log_mel(codec.decode(codes)[:, 0])
    blank = float((direct - direct.mean()).abs().mean())
    assert float((direct - heard)[..., 2:-2].abs().mean()) < 0.25 * blank


def test_training_aims_at_the_magnitudes_that_decoding_gives() -> None:
    """A decoder that always answers 0.03 decodes to magnitudes of 0.03, and training calls that exact."""
    codec = MagnitudeCodec(SMALL).eval()
    with torch.no_grad():
        codec.write.weight.zero_()
        codec.write.bias.fill_(math.log(0.03) + 6.0)
    decoded = codec.decode_magnitude(torch.zeros(1, 3, 5, dtype=torch.long))
    torch.testing.assert_close(decoded, torch.full((1, 641, 10), 0.03))
    losses = spectral_losses(codec.spectra(torch.zeros(1, 5, 8)), decoded)
    assert max(loss.item() for loss in losses.values()) < 1e-4


def test_same_steps_same_seed_same_codec(tmp_path: Path) -> None:
    training = CodecTraining(steps=12, batch=2, free_share=0.5, report_s=1e9)
    config = MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=2, entries=8)
    versions = {
        train_codec(Notes(4, 0), Notes(2, 1), tmp_path / name, training, config, lambda _: None).version
        for name in ("a", "b")
    }
    assert len(versions) == 1


def test_export_loads_as_it_was_written(trained: tuple[MagnitudeCodec, Path, list[str]], tmp_path: Path) -> None:
    loaded = load_codec(trained[1])
    save_codec(loaded, tmp_path / "again")  # type: ignore[arg-type]
    again = load_codec(tmp_path / "again")
    assert loaded.version == again.version
    pcm = Notes(3, 9).pcm(range(3))[:, None]
    assert torch.equal(loaded.encode(pcm), again.encode(pcm))
    assert float((loaded.encode(pcm) == trained[0].encode(pcm)).float().mean()) > 0.9  # half precision moves few codes


def test_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    said: list[str] = []
    config = MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=2, entries=8)
    notes = Notes(4, 0)
    train_codec(notes, notes, tmp_path, CodecTraining(steps=10, batch=2, report_s=1e9), config, said.append)
    train_codec(notes, notes, tmp_path, CodecTraining(steps=14, batch=2, report_s=1e9), config, said.append)
    assert any("goes on at step 10" in line for line in said)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["step"] == 14


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda f: (f / "config.json").unlink(), "without config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "without model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "allowed JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "of kind None"),
        (lambda f: (f / "config.json").write_text('{"kind": "quality"}'), "of kind 'quality'"),
        (lambda f: (f / "config.json").write_text('{"kind": "magnitude_codec", "wdth": 3}'), "unknown key 'wdth'"),
        (lambda f: (f / "config.json").write_text('{"kind": "magnitude_codec", "width": -1}'), "codec.width: got -1"),
        (lambda f: (f / "config.json").write_text('{"kind": "magnitude_codec"}'), "for weight"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "broken"),
        (lambda f: _truncate(f / "model.safetensors"), "broken"),
    ],
)
def test_a_broken_checkpoint_is_one_clear_line(tmp_path: Path, spoil: object, complaint: str) -> None:
    save_codec(MagnitudeCodec(SMALL), tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=complaint) as caught:
        load_codec(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    codec = MagnitudeCodec(SMALL)
    with torch.no_grad():
        codec.write.bias[0] = math.nan
    save_codec(codec, tmp_path)
    with pytest.raises(UserError, match="not finite"):
        load_codec(tmp_path)


def test_config_is_plain_json_beside_safetensors(trained: tuple[MagnitudeCodec, Path, list[str]]) -> None:
    config = json.loads((trained[1] / "config.json").read_text())
    assert config["kind"] == "magnitude_codec"
    assert config["levels"] == 3


@pytest.mark.skipif(not SHIPPED.exists(), reason="the shipped assets are not built")
def test_the_shipped_codec_uses_its_codebooks() -> None:
    codec = load_codec(SHIPPED)
    assert codec.codebook_sizes == (256,) * 4
    assert codec.frame_rate_hz == 25.0


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
