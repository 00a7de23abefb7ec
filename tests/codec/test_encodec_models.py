"""EnCodec at 48 kHz, transformers' files, and decoding piece by piece, all on random weights of the true models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import UserError
from codec.checkpoint import load_codec
from codec.encodec_codec import STEREO, EncodecCodec, random_model
from codec.encodec_folder import transformers_name
from codec.port import Codec
from codec.torchaudio_guard import import_torchaudio


@pytest.fixture(scope="module")
def stereo() -> EncodecCodec:
    torch.set_num_threads(1)
    return EncodecCodec(random_model(0, STEREO), 6.0, STEREO)


@pytest.fixture(scope="module")
def mono() -> EncodecCodec:
    return EncodecCodec(random_model(0), 6.0)


def noise(channels: int, samples: int, rows: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(rows, channels, samples, generator=torch.Generator().manual_seed(1))


def test_the_stereo_models_port_and_units(stereo):
    assert isinstance(stereo, Codec)
    assert (stereo.sample_rate_hz, stereo.channels) == (48_000, 2)
    assert stereo.frame_rate_hz == pytest.approx(150 / 0.99)
    assert stereo.codebook_sizes == (1024,) * 4
    assert EncodecCodec(stereo.model, 24.0, STEREO).codebook_sizes == (1024,) * 16
    with pytest.raises(UserError, match=r"got 1\.5, allowed: 3, 6, 12, 24"):
        EncodecCodec(stereo.model, 1.5, STEREO)


def test_with_levels_it_is_what_the_package_gives(stereo):
    """2.1 s: two whole segments, and a third of 0.12 s."""
    pcm = noise(2, 100_800)
    pcm[..., 60_000:] *= 0.2  # segments of different loudness
    stereo.model.set_target_bandwidth(6.0)
    with torch.no_grad():
        frames = stereo.model.encode(pcm)
        expected = stereo.model.decode(frames)
    codes, levels = stereo.encode_with_levels(pcm)
    assert torch.equal(codes, torch.cat([part for part, _ in frames], dim=-1))
    torch.testing.assert_close(levels, torch.cat([level for _, level in frames], dim=1))
    torch.testing.assert_close(stereo.decode(codes, levels), expected.clamp(-1, 1), rtol=0, atol=1e-5)


def test_without_levels_every_segment_plays_at_one_loudness(stereo):
    codes = stereo.encode(noise(2, 96_000))
    plain = stereo.decode(codes)
    assert plain.shape == (1, 2, 96_000)
    same = torch.full((1, 3), 0.1)
    assert torch.equal(plain, stereo.decode(codes, same))
    assert not torch.equal(plain, stereo.decode(codes, same * torch.tensor([1.0, 0.5, 1.0])))
    assert stereo.decode_log_mel(codes).shape == (1, 64, 100)


@pytest.mark.parametrize("size", [40, 150, 400])
def test_stereo_pieces_are_the_whole(stereo, size):
    codes = torch.randint(0, 1024, (2, 4, 330), generator=torch.Generator().manual_seed(2))
    pieces = list(stereo.decode_stream(codes.split(size, dim=-1)))
    torch.testing.assert_close(torch.cat(pieces, dim=-1), stereo.decode(codes), rtol=0, atol=1e-6)
    assert len(pieces) >= 3


@pytest.mark.parametrize("size", [8, 25, 64])
def test_causal_pieces_are_the_whole(mono, size):
    codes = torch.randint(0, 1024, (2, 8, 64), generator=torch.Generator().manual_seed(3))
    pieces = list(mono.decode_stream(codes.split(size, dim=-1)))
    assert [piece.shape[-1] for piece in pieces] == [320 * part.shape[-1] for part in codes.split(size, dim=-1)]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), mono.decode(codes), rtol=0, atol=1e-5)


def test_a_first_piece_that_is_too_short_is_refused(mono):
    codes = torch.zeros(1, 8, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least 8"):
        next(mono.decode_stream([codes]))


def test_a_stereo_checkpoint_round_trips(stereo, tmp_path):
    stereo.level_rms = 0.2
    stereo.save(tmp_path)
    loaded = load_codec(tmp_path)
    stereo.level_rms = 0.1
    assert isinstance(loaded, EncodecCodec)
    assert (loaded.version, loaded.level_rms, loaded.channels) == (stereo.version, 0.2, 2)


@pytest.mark.parametrize("rate_hz", [24_000, 48_000])
@pytest.mark.parametrize("published", [False, True])
def test_transformers_files_give_transformers_codes_and_sound(tmp_path, rate_hz, published):
    """As transformers 5 saves weight norm, and as the published files of 2023 have it."""
    pytest.importorskip("transformers", reason="the extra clap is not installed: pip install transformers")
    import_torchaudio()
    from safetensors.torch import load_file, save_file
    from transformers import EncodecConfig, EncodecModel

    wide = rate_hz == 48_000
    more = {
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "use_causal_conv": False,
        "norm_type": "time_group_norm",
    }
    config = EncodecConfig(
        sampling_rate=rate_hz,
        target_bandwidths=[3.0, 6.0, 12.0, 24.0] if wide else [1.5, 3.0, 6.0, 12.0, 24.0],
        upsampling_ratios=[8, 5, 4, 2],
        **(more if wide else {}),
    )
    torch.manual_seed(0)
    theirs = EncodecModel(config).eval()
    with torch.no_grad():
        for layer in theirs.quantizer.layers:
            layer.codebook.embed.normal_()
    theirs.save_pretrained(tmp_path)
    if published:
        file = tmp_path / "model.safetensors"
        tensors = {
            name.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for name, tensor in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
    entries = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**entries, "bandwidth_kbps": 6.0}))
    ours = load_codec(tmp_path)
    assert isinstance(ours, EncodecCodec) and ours.sample_rate_hz == rate_hz
    pcm = noise(2 if wide else 1, 48_000 if wide else 12_000)
    with torch.no_grad():
        encoded = theirs.encode(pcm, bandwidth=6.0)
        sound = theirs.decode(encoded.audio_codes, encoded.audio_scales).audio_values
    codes, levels = ours.encode_with_levels(pcm)
    first = encoded.audio_codes[0]  # [B, K, T] of the first segment
    assert torch.equal(codes[..., : first.shape[-1]], first)
    decoded = ours.decode(codes, levels)
    samples = 47_000 if wide else 12_000  # before the cross-fade, whose second segment the two cut differently
    torch.testing.assert_close(decoded[..., :samples], sound[..., :samples].clamp(-1, 1), rtol=0, atol=1e-4)


def test_names_of_convolutions_norms_and_codebooks():
    assert transformers_name("encoder.model.0.conv.conv.weight_g") == "encoder.layers.0.conv.weight_g"
    assert transformers_name("decoder.model.3.convtr.norm.bias") == "decoder.layers.3.norm.bias"
    assert transformers_name("quantizer.vq.layers.2._codebook.embed") == "quantizer.layers.2.codebook.embed"


def test_transformers_files_of_another_rate_are_refused(tmp_path: Path):
    config = {"model_type": "encodec", "sampling_rate": 32_000, "target_bandwidths": [2.2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="got 32000 Hz, allowed: encodec_24khz, encodec_48khz"):
        load_codec(tmp_path)


def test_a_run_is_told_the_codecs_rate_and_codebooks_before_it_loads_it(stereo, mono, tmp_path):
    """What the checks before a run read from config.json is what the loaded codec says."""
    from learner.model_folder import ModelFolder
    from learner.preflight import CODEC_KINDS, _codec_facts

    for name, codec in (("stereo", stereo), ("mono", mono)):
        codec.save(tmp_path / name)
        folder = ModelFolder(tmp_path / name, "codec.checkpoint", CODEC_KINDS)
        assert _codec_facts(folder) == (codec.frame_rate_hz, list(codec.codebook_sizes))
    config = {"model_type": "encodec", "sampling_rate": 48_000, "target_bandwidths": [3.0, 6.0]}
    (tmp_path / "mono" / "config.json").write_text(json.dumps(config))
    folder = ModelFolder(tmp_path / "mono", "codec.checkpoint", CODEC_KINDS)
    assert _codec_facts(folder) == (stereo.frame_rate_hz, [1024] * 4)
