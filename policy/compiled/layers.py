"""What stands between matrix products and attention: GELU, layer norm, rows of a table."""

from __future__ import annotations

import numpy as np

from policy.compiled import simd
from policy.compiled.once import compiled
from policy.compiled.simd import LANES, ZERO, Floats, Integers, fma, load, load_some, splat, store, store_some

ONE, THREE = np.float32(1), np.float32(3)
NORM_EPS = np.float32(1e-5)
GELU_FACTOR = np.float32(2 * (2 / np.pi) ** 0.5)
GELU_CUBE = np.float32(0.044715)


@compiled
def gelu(x: Floats, out: Floats) -> None:
    """x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3), of flat arrays, out of place or in place.

    Source: the tanh form of arXiv 1606.08415, section 2, with tanh written as an exponential.
    """
    whole = x.size // LANES * LANES
    for i in range(0, whole, LANES):
        store(out, i, _gelu(load(x, i)))
    if whole < x.size:
        store_some(out, whole, _gelu(load_some(x, whole, x.size - whole)), x.size - whole)


@compiled
def gelu_gradient(x: Floats, grad: Floats, out: Floats) -> None:
    """grad (s + x s (1 - s) 2 u'), s = 1 / (1 + exp(-2 u)), of flat arrays."""
    whole = x.size // LANES * LANES
    for i in range(0, whole, LANES):
        store(out, i, simd.multiply(_gelu_slope(load(x, i)), load(grad, i)))
    if whole < x.size:
        left = x.size - whole
        slope = _gelu_slope(load_some(x, whole, left))
        store_some(out, whole, simd.multiply(slope, load_some(grad, whole, left)), left)


@compiled
def _gelu(x: simd.Vector) -> simd.Vector:
    return simd.divide(x, _gelu_divisor(x))


@compiled
def _gelu_divisor(x: simd.Vector) -> simd.Vector:
    inner = fma(simd.multiply(x, splat(GELU_CUBE)), simd.multiply(x, x), x)
    return simd.add(splat(ONE), simd.exp(simd.multiply(splat(-GELU_FACTOR), inner)))


@compiled
def _gelu_slope(x: simd.Vector) -> simd.Vector:
    share = simd.divide(splat(ONE), _gelu_divisor(x))
    inner = simd.multiply(splat(GELU_FACTOR), fma(simd.multiply(x, splat(THREE * GELU_CUBE)), x, splat(ONE)))
    rest = simd.multiply(simd.multiply(x, simd.subtract(splat(ONE), share)), inner)
    return fma(share, rest, share)


@compiled
def norm(x: Floats, added: Floats, weight: Floats, y: Floats, normed: Floats, moments: Floats) -> None:
    """y = x + added, and its layer norm without a bias; where `added` is empty, the norm of x, which then is y.

    x, added, y, normed [R, D]; weight [D]; moments [R, 2] take the mean and 1 / sqrt(variance + NORM_EPS).
    """
    x, added, y, normed = x.reshape(-1), added.reshape(-1), y.reshape(-1), normed.reshape(-1)
    width, rows = weight.size, moments.shape[0]
    for r in range(rows):
        begin = r * width
        mean, scale = add_and_measure(x, added, y, begin, width)
        for j in range(0, width, LANES):
            away = simd.subtract(load_some(y, begin + j, width - j), splat(mean))
            scaled = simd.multiply(simd.multiply(away, splat(scale)), load_some(weight, j, width - j))
            store_some(normed, begin + j, scaled, width - j)
        moments[r, 0], moments[r, 1] = mean, scale


@compiled
def add_and_measure(x: Floats, added: Floats, y: Floats, begin: int, width: int) -> tuple[np.float32, np.float32]:
    """y = x + added of `width` numbers from `begin`: their mean and 1 / sqrt(variance + NORM_EPS).

    Where `added` is empty, y has to be x, and is not written.
    """
    middle, spread = splat(ZERO), splat(ZERO)
    for j in range(0, width, LANES):
        value = load_some(x, begin + j, width - j)
        if added.size:
            value = simd.add(value, load_some(added, begin + j, width - j))
            store_some(y, begin + j, value, width - j)
        middle = simd.add(middle, value)
    mean = simd.total(middle) / np.float32(width)
    for j in range(0, width, LANES):
        away = simd.subtract(load_some(y, begin + j, width - j), splat(mean))
        spread = simd.add(spread, simd.some(simd.multiply(away, away), width - j))
    return mean, ONE / np.sqrt(simd.total(spread) / np.float32(width) + NORM_EPS)


@compiled
def look_up(table: Floats, tokens: Integers, x: Floats, heads: Floats) -> None:
    """Rows [V, D + W] of the tokens [B], once or twice over: x [copies B, D] and heads [copies B, W] take the parts."""
    width, wide, rows = x.shape[1], heads.shape[1], x.shape[0]
    table, heads, x = table.reshape(-1), heads.reshape(-1), x.reshape(-1)
    for r in range(rows):
        found = tokens[r % tokens.size] * (width + wide)
        copy(table, found, x, r * width, width)
        copy(table, found + width, heads, r * wide, wide)


@compiled
def copy(source: Floats, at: int, target: Floats, begin: int, count: int) -> None:
    """source[at:][:count] -> target[begin:]."""
    for j in range(0, count, LANES):
        store_some(target, begin + j, load_some(source, at + j, count - j), count - j)
