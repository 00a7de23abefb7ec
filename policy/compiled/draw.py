"""One token a row from its logits, and the log-probability of the distribution that it came from."""

from __future__ import annotations

import numpy as np

from policy.compiled import simd
from policy.compiled.once import compiled
from policy.compiled.simd import LANES, LOWEST, ZERO, Floats, Integers, load, load_some, splat, store


@compiled
def draw(
    logits: Floats,
    size: int,
    guidance: np.float32,
    temperature: np.float32,
    noise: Floats,
    scratch: Floats,
    sums: Floats,
    tokens: Integers,
    log_probs: Floats,
) -> None:
    """Draws one entry a row by inverting its distribution function, and notes its log-probability.

    logits [copies B, V], with guidance the null condition's after the others, of which the first `size` entries exist;
    noise [B] in [0, 1); scratch and sums as draw_shapes says; tokens, log_probs [B] are filled.
    Weights are added up in blocks of LANES, the blocks in float64: first the block is found, then the entry in it.
    """
    rows, entries = tokens.size, logits.shape[1]
    guided, logits, padded = logits.shape[0] > rows, logits.reshape(-1), scratch.size // 2
    for b in range(rows):
        top = splat(LOWEST)
        for v in range(0, size, LANES):
            value = load_some(logits, b * entries + v, size - v)
            if guided:
                null = load_some(logits, (rows + b) * entries + v, size - v)
                value = simd.add(null, simd.multiply(splat(guidance), simd.subtract(value, null)))
            value = simd.first_of(simd.divide(value, splat(temperature)), size - v)
            top = simd.maximum(top, value)
            store(scratch, v, value)
        greatest, whole = simd.greatest(top), 0.0
        for v in range(0, size, LANES):
            weight = simd.exp(simd.subtract(load(scratch, v), splat(greatest)))
            store(scratch, padded + v, weight)
            sums[v // LANES] = simd.total(weight)
            whole += sums[v // LANES]
        token = _find(scratch, padded, sums, size, noise[b] * whole)
        tokens[b] = token
        log_probs[b] = np.float64(scratch[token]) - np.float64(greatest) - np.log(whole)


@compiled
def _find(weights: Floats, first: int, sums: Floats, size: int, target: float) -> int:
    """The first entry up to which the weights from `first` on add up to more than the target.

    The sums of the blocks are those that made the whole, in the same order: a target below the whole always finds one.
    """
    begin, below = 0, 0.0
    while begin + LANES < size and not below + sums[begin // LANES] > target:
        below += sums[begin // LANES]
        begin += LANES
    token, last, inside = begin, min(begin + LANES, size) - 1, below + weights[first + begin]
    while token < last and not inside > target:
        token += 1
        inside += weights[first + token]
    while token > begin and weights[first + token] == ZERO:  # where rounding led beyond the last one that can be
        token -= 1
    return token


def draw_shapes(size: int) -> tuple[int, int]:
    """Lengths of scratch and sums for draw."""
    return 2 * simd.up(size, LANES), simd.up(size, LANES) // LANES
