"""Kernels against torch in float64, and their bits whatever is worked out beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policy.compiled import attention
from policy.compiled.draw import draw, draw_shapes
from policy.compiled.once import _folder
from policy.compiled.product import pack, product
from policy.linear import linear
from policy.operations import gelu, norm, self_attention, torch_attention
from policy.tiny_musiclm import rotary_turns

ATTENTION = [(9, 4, 1, 48), (70, 2, 2, 12), (5, 6, 1, 16), (40, 8, 2, 20)]  # places, heads, key heads, width


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result, then the gradient of a weighted sum of it for each input."""
    inputs = tuple(part.detach().clone().requires_grad_() for part in inputs)
    out = function(*inputs)
    weights = torch.arange(out.numel(), dtype=out.dtype).remainder(7).sub(3).view(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


def assert_like_float64(function: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Tensor) -> None:
    found = with_gradients(function, *inputs)
    wanted = with_gradients(reference, *(part.double() for part in inputs))
    for part, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(part.double(), exact, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 24, 72), (5, 40, 24), (67, 33, 130), (300, 192, 64)])
def test_products(rows: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    assert_like_float64(linear, F.linear, torch.randn(rows, inputs), torch.randn(outputs, inputs))


def test_a_row_of_a_product_has_the_same_bits_in_any_company() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(200, 640).numpy(), pack(torch.randn(96, 640).numpy())
    together = np.empty((200, 96), np.float32)
    product(x, weight, together)
    for begin, end in ((0, 1), (3, 11), (64, 129), (199, 200)):
        part = np.empty((end - begin, 96), np.float32)
        product(x[begin:end], weight, part)
        assert np.array_equal(part, together[begin:end])


def test_gelu() -> None:
    x = torch.cat([torch.linspace(-12.0, 12.0, 1003), torch.tensor([-1e4, -100.0, 100.0, 1e4])])
    assert_like_float64(gelu, lambda x: F.gelu(x, approximate="tanh"), x)
    assert gelu(torch.full((20,), torch.nan)).isnan().all()


@pytest.mark.parametrize("width", [24, 128])
def test_norm(width: int) -> None:
    torch.manual_seed(0)
    x, weight = 3.0 + 2.0 * torch.randn(3, 7, width), torch.randn(width)
    assert_like_float64(norm, lambda x, weight: F.layer_norm(x, weight.shape, weight), x, weight)


@pytest.mark.parametrize(("places", "heads", "key_heads", "width"), ATTENTION)
def test_attention_over_a_sequence(places: int, heads: int, key_heads: int, width: int) -> None:
    torch.manual_seed(0)
    turns = torch.view_as_complex(rotary_turns(places, width))
    assert_like_float64(
        lambda x: self_attention(x, turns, heads),
        lambda x: torch_attention(x, turns.to(torch.complex128), heads),
        torch.randn(3, places, heads + 2 * key_heads, width),
    )


@pytest.mark.parametrize(("places", "heads", "width"), [(5, 4, 32), (3, 2, 12), (1, 2, 16), (16, 1, 40)])
def test_attention_inside_a_frame(places: int, heads: int, width: int) -> None:
    torch.manual_seed(0)
    heads_of_all = torch.randn(6, places, 3 * heads, width)
    assert_like_float64(
        lambda x: self_attention(x, None, heads), lambda x: torch_attention(x, None, heads), heads_of_all
    )


@pytest.mark.parametrize(("places", "heads", "key_heads", "width"), ATTENTION)
def test_attention_place_by_place_has_the_same_bits(places: int, heads: int, key_heads: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, places, heads + 2 * key_heads, width)
    turns = rotary_turns(places, width)
    whole = self_attention(x, torch.view_as_complex(turns), heads).view(3, places, heads, width)
    shapes = attention.sequence_cache_shapes(2, key_heads, places, width)
    cache = [np.full(shape, np.nan, np.float32) for shape in shapes]
    for place in range(places):  # two of the rows
        out = np.empty((2, 1, heads, width), np.float32)
        attention.attend_sequence(x[1:, place].reshape(-1).numpy(), turns.numpy(), place, *cache, out)
        assert np.array_equal(out[:, 0], whole[1:, place].numpy())


def test_attention_inside_a_frame_place_by_place_has_the_same_bits() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 12, 20)
    whole = self_attention(x, None, 4).view(3, 5, 4, 20)
    cache = [np.zeros(shape, np.float32) for shape in attention.frame_cache_shapes(2, 5, 4, 20)]
    for frame in range(2):  # what is left of a frame does not reach the next
        for place in range(5):
            out = np.empty((2, 1, 4, 20), np.float32)
            attention.attend_frame(x[frame : frame + 2, place].reshape(-1).numpy(), place, *cache, out)
            assert np.array_equal(out[:, 0], whole[frame : frame + 2, place].numpy())


def test_threads_change_no_bit(two_threads: None) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(600, 192), torch.randn(192, 192)
    heads, turns = torch.randn(600, 5, 6, 48), torch.view_as_complex(rotary_turns(5, 48))

    def everything() -> list[Tensor]:
        results = [linear(x, weight), norm(x, weight[0]), *with_gradients(gelu, x)]
        return results + with_gradients(lambda heads: self_attention(heads, turns, 4), heads)

    shared = everything()
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(shared, everything(), strict=True))


def drawn(logits: Tensor, noise: list[float], size: int, guidance: float = 1.0, temperature: float = 1.0) -> tuple:
    """-> tokens and log-probabilities."""
    tokens, log_probs = np.zeros(len(noise), np.int64), np.zeros(len(noise), np.float32)
    scratch = [np.zeros(length, np.float32) for length in draw_shapes(size)]
    settings = size, np.float32(guidance), np.float32(temperature)
    draw(logits.numpy(), *settings, np.array(noise, np.float32), *scratch, tokens, log_probs)
    return tokens.tolist(), log_probs.tolist()


def test_draw_by_hand() -> None:
    logits = torch.tensor([0.5, 0.25, 0.0, 0.25, 9.0]).log().expand(6, -1).contiguous()
    tokens, log_probs = drawn(logits, [0.0, 0.499, 0.501, 0.749, 0.751, 1.0 - 2.0**-24], size=4)
    assert tokens == [0, 0, 1, 1, 3, 3]
    assert log_probs == pytest.approx([math.log(chance) for chance in (0.5, 0.5, 0.25, 0.25, 0.25, 0.25)], abs=1e-6)


def test_draw_with_guidance_and_temperature_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # guided: 2 and -1; tempered: 4 and -2
    first = 1.0 / (1.0 + math.exp(-6.0))
    assert drawn(logits, [0.99 * first], 2, 3.0, 0.5) == ([0], [pytest.approx(math.log(first), abs=1e-6)])
    assert drawn(logits, [1.01 * first], 2, 3.0, 0.5) == ([1], [pytest.approx(math.log(1 - first), abs=1e-6)])


def test_draw_cuts_the_line_where_the_distribution_function_does() -> None:
    torch.manual_seed(0)
    logits, noise = 4.0 * torch.randn(500, 256), torch.rand(500)
    log_dist = torch.log_softmax(logits.double(), dim=-1)
    wanted = torch.searchsorted(log_dist.exp().cumsum(-1), noise.double()[:, None], right=True)
    tokens, log_probs = drawn(logits, noise.tolist(), 256)
    assert tokens == wanted[:, 0].tolist()
    assert log_probs == pytest.approx(log_dist.gather(1, wanted)[:, 0].tolist(), abs=2e-6)


def test_draw_never_takes_what_cannot_be() -> None:
    logits = torch.full((100, 64), -200.0)
    logits[:, 37] = 0.0
    tokens, log_probs = drawn(logits, torch.linspace(0.0, 1.0 - 2.0**-24, 100).tolist(), 64)
    assert tokens == [37] * 100
    assert log_probs == [0.0] * 100


def test_draw_from_numbers_that_are_none_is_told_by_its_log_probability() -> None:
    logits = torch.zeros(2, 40)
    logits[0, 3] = torch.nan
    tokens, log_probs = drawn(logits, [0.5, 0.5], 40)
    assert 0 <= tokens[0] < 40
    assert math.isnan(log_probs[0])
    assert log_probs[1] == pytest.approx(-math.log(40), abs=1e-6)


def test_compiled_code_is_kept_where_one_may_write(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("policy.compiled.once.__file__", "/proc/nowhere/once.py")
    assert _folder.__wrapped__().parent == tmp_path / "musicrl_on_ray"
