"""MusicGen's codec on a CPU: its decoder is the encodec package's, whatever the shapes and however many clips."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import CODEC_DEFAULTS
from codec.seanet_decoder import ChannelsLastDecoder

SMALL = {**CODEC_DEFAULTS, "num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},
    "no_recurrence": {"num_lstm_layers": 0},
    "causal": {"use_causal_conv": True},
    "causal, cut on both sides": {"use_causal_conv": True, "trim_right_ratio": 0.5},
    "odd strides": {"upsampling_ratios": [5, 3, 2]},
    "shortcuts": {"use_conv_shortcut": True},
    "dilated": {"num_residual_layers": 3, "dilation_growth_rate": 3},
    "zeros about the clip": {"pad_mode": "constant"},
    "pointwise residuals": {"residual_kernel_size": 1},
}


def codec_of(channels: int = 1, **changes: Any) -> MusicGenCodec:
    torch.manual_seed(0)
    codec = MusicGenCodec({**SMALL, **changes}, channels, levels=4).eval().requires_grad_(False)
    codec.codebooks.normal_()
    return codec


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 9])
@pytest.mark.parametrize("variant", VARIANTS)
def test_clips_together_sound_as_each_alone_and_as_the_packages_decoder(
    channels: int, frames: int, variant: str
) -> None:
    codec = codec_of(channels, **VARIANTS[variant])
    codes = torch.randint(32, (5, 4 * channels, frames))
    together = codec.decode(codes)
    assert together.shape == (5, channels, frames * codec.hop) and together.std() > 1e-3
    alone = torch.cat([codec.decode(clip) for clip in codes.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert codec._on_cpu is not None
    with mock.patch("codec.onednn.serves", return_value=False), mock.patch.object(codec, "_on_cpu") as unused:
        torch.testing.assert_close(together, codec.decode(codes), atol=2e-6, rtol=0)
    unused.assert_not_called()


def test_what_the_layers_are_given_stays_where_somebody_else_reads_it() -> None:
    codec, latent = codec_of(residual_kernel_size=1), torch.randn(2, 6, 16)
    before = latent.clone()
    with torch.no_grad():
        first = ChannelsLastDecoder(codec.decoder)(latent)
        assert torch.equal(latent, before) and torch.equal(first, ChannelsLastDecoder(codec.decoder)(latent))


def test_other_weights_are_laid_out_anew() -> None:
    codec, other = codec_of(), codec_of(num_lstm_layers=2)
    codes = torch.randint(32, (1, 4, 5))
    codec.decode(codes)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    names = other.stored_names()
    codec.fill({stored: other.state_dict()[name] for stored, name in names.items()}, "x")  # type: ignore[arg-type]
    torch.testing.assert_close(codec.decode(codes), other.decode(codes), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("group_bytes", "seen"), [(1, 1), (3 * 10 * 640 * 4 * 4, 3), (2**30, 5)])
def test_layers_take_as_many_clips_as_make_up_a_group(group_bytes: int, seen: int, monkeypatch: Any) -> None:
    """The last layers make 4 channels of 10 x 640 numbers of a clip, the first ones less."""
    monkeypatch.setattr("codec.seanet_decoder.GROUP_BYTES", group_bytes)
    codec, clips = codec_of(), dict[int, list[int]]()
    codes = torch.randint(32, (5, 4, 10))
    codec._on_cpu = decoder = ChannelsLastDecoder(codec.decoder)

    def noted(place: int, layer: Any, x: torch.Tensor) -> torch.Tensor:
        clips.setdefault(place, []).append(len(x))
        return layer(x)

    decoder.layers = [partial(noted, place, layer) for place, layer in enumerate(decoder.layers)]
    decoded = codec.decode(codes)
    assert clips[0] == [5] and all(sum(each) == 5 for each in clips.values())
    assert clips[1] == ([1] * 5 if seen == 1 else [5])
    assert clips[max(clips)] == [seen] * (5 // seen) + [5 % seen] * bool(5 % seen)
    monkeypatch.setattr("codec.seanet_decoder.GROUP_BYTES", 2**30)
    torch.testing.assert_close(decoded, codec.decode(codes), atol=1e-6, rtol=0)
