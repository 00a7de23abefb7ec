"""Residual quantisation against a loop that does what the formula says, and the guards against collapse."""

from __future__ import annotations

import math

import pytest
import torch

from codec.quantizer import ResidualQuantizer, k_means, nearest, perplexity


def _slow_encode(latent: list[float], codebooks: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    residual, total, codes = torch.tensor(latent), torch.zeros(len(latent)), []
    for book in codebooks:
        distances = [float(((residual - entry) ** 2).sum()) for entry in book]
        best = distances.index(min(distances))
        codes.append(best)
        residual, total = residual - book[best], total + book[best]
    return codes, total


@pytest.fixture
def quantizer() -> ResidualQuantizer:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(levels=3, entries=8, width=4)
    quantizer.codebooks.copy_(torch.randn(3, 8, 4) / torch.tensor([1.0, 2.0, 4.0])[:, None, None])
    return quantizer.eval()


def test_encode_and_decode_equal_the_slow_loop(quantizer: ResidualQuantizer) -> None:
    latent = torch.randn(2, 5, 4)
    codes = quantizer.encode(latent)
    decoded = quantizer.decode(codes)
    assert codes.shape == (2, 3, 5)
    for b in range(2):
        for t in range(5):
            slow_codes, slow_total = _slow_encode(latent[b, t].tolist(), quantizer.codebooks)
            assert codes[b, :, t].tolist() == slow_codes
            torch.testing.assert_close(decoded[b, t], slow_total)


def test_leading_levels_decode_alone_and_more_levels_come_nearer(quantizer: ResidualQuantizer) -> None:
    latents = torch.randn(1, 4000, 4)
    quantizer.start_from(latents[0], torch.Generator().manual_seed(0))
    codes = quantizer.encode(latents)
    errors = [float((quantizer.decode(codes[:, :k]) - latents).square().mean()) for k in (1, 2, 3)]
    assert errors[0] > 1.5 * errors[1] > 2.0 * errors[2]


def test_forward_drops_the_levels_a_sequence_does_not_keep(quantizer: ResidualQuantizer) -> None:
    latent = torch.randn(3, 5, 4)
    out, _, codes = quantizer(latent, torch.tensor([1, 2, 3]))
    assert torch.equal(codes, quantizer.encode(latent))
    for row, kept in enumerate((1, 2, 3)):
        torch.testing.assert_close(out[row], quantizer.decode(codes[row : row + 1, :kept])[0])


def test_gradient_passes_straight_through(quantizer: ResidualQuantizer) -> None:
    latent = torch.randn(1, 5, 4, requires_grad=True)
    out, _, _ = quantizer(latent, torch.tensor([3]))
    out.sum().backward()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, torch.ones_like(latent))


def test_an_entry_that_nothing_chooses_is_moved_to_the_data() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(levels=1, entries=16, width=2).train()
    quantizer.codebooks[0, 1:] = 1e3  # fifteen entries far from all data
    quantizer.sums[0] = quantizer.codebooks[0] * quantizer.shares[0][:, None]
    data = torch.randn(4, 64, 2)
    for _ in range(300):
        _, _, codes = quantizer(data, torch.full((4,), 1))
    assert perplexity(codes, 16)[0] > 8


def test_codebook_follows_the_mean_of_what_chooses_it() -> None:
    quantizer = ResidualQuantizer(levels=1, entries=2, width=1).train()
    quantizer.codebooks[0] = torch.tensor([[-1.0], [1.0]])
    quantizer.sums[0] = quantizer.codebooks[0] / 2
    data = torch.tensor([[[-3.0], [-2.0], [2.0], [3.0]]])
    for _ in range(400):
        quantizer(data, torch.tensor([1]))
    torch.testing.assert_close(quantizer.codebooks[0], torch.tensor([[-2.5], [2.5]]), atol=0.01, rtol=0)


def test_k_means_finds_separated_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2)).flatten(0, 1)
    found = k_means(points, 3, torch.Generator().manual_seed(1), rounds=30)
    assert sorted(nearest(centres, found).tolist()) == [0, 1, 2]


def test_perplexity_counts_the_entries_in_use() -> None:
    codes = torch.tensor([[[0, 1, 2, 3], [5, 5, 5, 5]]])
    assert perplexity(codes, 8) == pytest.approx([4.0, 1.0])
    uneven = torch.tensor([[[0, 0, 0, 1]]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert perplexity(uneven, 8) == pytest.approx([expected])
