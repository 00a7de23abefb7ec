"""Many clips decoded together by MusicGen's codec: the first layers over all, later ones over a few."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from codec.musicgen_codec import MusicGenCodec
from codec.musicgen_folder import CODEC_DEFAULTS

SMALL = {**CODEC_DEFAULTS, "num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 32}


def codec_of(channels: int = 1, **changes: Any) -> MusicGenCodec:
    torch.manual_seed(0)
    codec = MusicGenCodec({**SMALL, **changes}, channels, levels=4).eval().requires_grad_(False)
    codec.codebooks.normal_()
    return codec


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("recurrent_layers", [2, 0])
def test_clips_together_sound_as_each_alone_and_as_the_packages_decoder(channels: int, recurrent_layers: int) -> None:
    codec = codec_of(channels, num_lstm_layers=recurrent_layers)
    codes = torch.randint(32, (5, 4 * channels, 9))
    together = codec.decode(codes)
    assert together.shape == (5, channels, 9 * 640) and together.std() > 1e-3
    alone = torch.cat([codec.decode(clip) for clip in codes.split(1)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    with mock.patch.object(codec, "_synthesise", codec.decoder):
        torch.testing.assert_close(together, codec.decode(codes), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("group_bytes", "seen"), [(1, 1), (3 * 10 * 640 * 4 * 4, 3), (2**30, 5)])
def test_layers_take_as_many_clips_as_make_up_a_group(group_bytes: int, seen: int, monkeypatch: Any) -> None:
    """The last layers make 4 channels of 10 x 640 numbers of a clip, the first ones less."""
    monkeypatch.setattr("codec.musicgen_codec.GROUP_BYTES", group_bytes)
    codec, clips = codec_of(), dict[int, list[int]]()

    def note(place: int, layer: Any, inputs: Any, made: Any) -> None:
        clips.setdefault(place, []).append(len(made))

    for place, layer in enumerate(codec.decoder.model):
        layer.register_forward_hook(partial(note, place))
    codes = torch.randint(32, (5, 4, 10))
    decoded = codec.decode(codes)
    assert clips[0] == [5] and all(sum(each) == 5 for each in clips.values())
    assert clips[1] == ([1] * 5 if seen == 1 else [5])
    assert clips[max(clips)] == [seen] * (5 // seen) + [5 % seen] * bool(5 % seen)
    monkeypatch.setattr("codec.musicgen_codec.GROUP_BYTES", 2**30)
    torch.testing.assert_close(decoded, codec.decode(codes), atol=1e-6, rtol=0)
