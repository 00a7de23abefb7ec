"""Many clips decoded together by MusicGen's codec: recurrent layers over all, convolutions clip by clip."""

from __future__ import annotations

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


def test_each_layer_sees_as_many_clips_as_is_fastest() -> None:
    codec, seen = codec_of(), []
    for layer in codec.decoder.model:
        layer.register_forward_hook(lambda layer, inputs, _: seen.append((type(layer).__name__, len(inputs[0]))))
    codec.decode(torch.randint(32, (3, 4, 5)))
    assert ("SLSTM", 3) in seen and seen.count(("SLSTM", 3)) == 1
    assert seen.count(("SConvTranspose1d", 1)) == 4 * 3
