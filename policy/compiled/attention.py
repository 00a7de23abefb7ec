"""Attention from new places to themselves and all before them, over a cache of keys and values.

The learner hands over whole sequences, the sampler one place at a time: each place goes the same way. Letters: R rows,
S places, H query heads, G key heads (a divisor of H), d a head's width, d' that width up to whole vectors.
"""

from __future__ import annotations

import numpy as np

from policy.compiled import simd
from policy.compiled.layers import copy
from policy.compiled.once import compiled
from policy.compiled.simd import LANES, LOWEST, ZERO, Floats, fma, load, load_some, splat, store, store_some

HEADS = 4  # queries of one key head that are worked on side by side
KEY_STEP = 2 * LANES  # keys are laid out in rows of a multiple of this
MOST_PLACES = LANES  # of attend_frame
ONE = np.float32(1)


@compiled
def attend_sequence(
    heads: Floats, turns: Floats, first: int, keys: Floats, values: Floats, scratch: Floats, out: Floats
) -> None:
    """Adds places to a cache of keys and values and attends from each of them to itself and all before it.

    heads flat [R S (H + 2 G) d] queries, keys, values of the places first, ..., first + S - 1; turns [., d/2, 2] of
    all places; keys [R, G, d, L], values [R, G, L, d'] and scratch as sequence_cache_shapes says; out [R, S, H, d].
    A cache of one row serves any number of rows that come with all their places.
    """
    rows, places, query_heads, width = out.shape
    caches, key_heads, length, padded = values.shape
    shared, row = query_heads // key_heads, (query_heads + 2 * key_heads) * width
    turns, keys, values, out = turns.reshape(-1), keys.reshape(-1), values.reshape(-1), out.reshape(-1)
    for r in range(rows):
        for g in range(key_heads):
            head = r % caches * key_heads + g
            key_at, value_at = head * width * length, head * length * padded
            for s in range(places):
                at = (r * places + s) * row + (query_heads + g) * width
                _turned(heads, at, turns, first + s, width, scratch, 0)
                for j in range(width):
                    keys[key_at + j * length + first + s] = scratch[j]
                for j in range(0, width, LANES):
                    value = load_some(heads, at + key_heads * width + j, width - j)
                    store(values, value_at + (first + s) * padded + j, value)
            for s in range(places):
                for h in range(g * shared, (g + 1) * shared, HEADS):
                    here, at = min(HEADS, (g + 1) * shared - h), (r * places + s) * row + h * width
                    _queries(heads, at, here, turns, first + s, width, padded, scratch)
                    _weights(scratch, padded, width, keys, key_at, length, first + s + 1)
                    begin = ((r * places + s) * query_heads + h) * width
                    _mix(scratch, length, values, value_at, padded, width, first + s + 1, here, out, begin)


@compiled
def _queries(
    heads: Floats, at: int, here: int, turns: Floats, place: int, width: int, padded: int, scratch: Floats
) -> None:
    """`here` queries, turned -> scratch [HEADS, d'], the last of them as often as there are too few."""
    for i in range(HEADS):
        _turned(heads, at + min(i, here - 1) * width, turns, place, width, scratch, i * padded)


@compiled
def _turned(heads: Floats, at: int, turns: Floats, place: int, width: int, out: Floats, begin: int) -> None:
    """One head with the rotary turns of its place."""
    for j in range(0, width, LANES):
        turn = load_some(turns, place * width + j, width - j)
        store(out, begin + j, simd.turn(load_some(heads, at + j, width - j), turn))


@compiled
def _weights(scratch: Floats, padded: int, width: int, keys: Floats, begin: int, length: int, count: int) -> None:
    """Products of the queries in scratch with the first `count` columns of keys [d, L], as weights that sum to one.

    scratch holds queries [HEADS, d'], then weights [HEADS, L].
    """
    weights = HEADS * padded
    for s in range(0, count, KEY_STEP):
        a, b, c, d = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        e, f, g, h = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for j in range(width):
            left, right = load(keys, begin + j * length + s), load(keys, begin + j * length + s + LANES)
            q = splat(scratch[j])
            a, b = fma(q, left, a), fma(q, right, b)
            q = splat(scratch[padded + j])
            c, d = fma(q, left, c), fma(q, right, d)
            q = splat(scratch[2 * padded + j])
            e, f = fma(q, left, e), fma(q, right, f)
            q = splat(scratch[3 * padded + j])
            g, h = fma(q, left, g), fma(q, right, h)
        _store_two(scratch, weights + s, a, b)
        _store_two(scratch, weights + length + s, c, d)
        _store_two(scratch, weights + 2 * length + s, e, f)
        _store_two(scratch, weights + 3 * length + s, g, h)
    for i in range(HEADS):
        softmax(scratch, weights + i * length, count, np.float32(width**-0.5))


@compiled
def _store_two(array: Floats, at: int, left: simd.Vector, right: simd.Vector) -> None:
    store(array, at, left)
    store(array, at + LANES, right)


@compiled
def softmax(scores: Floats, begin: int, count: int, scale: np.float32) -> None:
    """The first `count` scores from `begin` on, scaled, to weights that sum to one; zeros to the vector's end."""
    top, added = splat(LOWEST), splat(ZERO)
    for s in range(0, count, LANES):
        top = simd.maximum(top, simd.first_of(load(scores, begin + s), count - s))
    greatest = splat(simd.greatest(top))
    for s in range(0, count, LANES):
        away = simd.subtract(simd.first_of(load(scores, begin + s), count - s), greatest)
        weight = simd.exp(simd.multiply(away, splat(scale)))
        added = simd.add(added, weight)
        store(scores, begin + s, weight)
    share = splat(ONE / simd.total(added))
    for s in range(0, count, LANES):
        store(scores, begin + s, simd.multiply(load(scores, begin + s), share))


@compiled
def _mix(
    scratch: Floats,
    length: int,
    values: Floats,
    at: int,
    padded: int,
    width: int,
    count: int,
    here: int,
    out: Floats,
    begin: int,
) -> None:
    """Sums of the first `count` of values [L, d'] by the weights in scratch -> `here` heads of out [., d]."""
    first = HEADS * padded
    second, third, fourth = first + length, first + 2 * length, first + 3 * length
    for j in range(0, width, LANES):
        a, b, c, d = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        e, f, g, h = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for s in range(0, count - 1, 2):  # two sums each, so that they need not wait for one another
            one, two = load(values, at + s * padded + j), load(values, at + (s + 1) * padded + j)
            a, b = fma(splat(scratch[first + s]), one, a), fma(splat(scratch[first + s + 1]), two, b)
            c, d = fma(splat(scratch[second + s]), one, c), fma(splat(scratch[second + s + 1]), two, d)
            e, f = fma(splat(scratch[third + s]), one, e), fma(splat(scratch[third + s + 1]), two, f)
            g, h = fma(splat(scratch[fourth + s]), one, g), fma(splat(scratch[fourth + s + 1]), two, h)
        if count % 2:
            s = count - 1
            one = load(values, at + s * padded + j)
            a, c = fma(splat(scratch[first + s]), one, a), fma(splat(scratch[second + s]), one, c)
            e, g = fma(splat(scratch[third + s]), one, e), fma(splat(scratch[fourth + s]), one, g)
        store(scratch, j, simd.add(a, b))  # the queries have been used
        store(scratch, padded + j, simd.add(c, d))
        store(scratch, 2 * padded + j, simd.add(e, f))
        store(scratch, 3 * padded + j, simd.add(g, h))
    for i in range(here):
        copy(scratch, i * padded, out, begin + i * width, width)


@compiled
def attend_frame(heads: Floats, first: int, cache: Floats, scratch: Floats, out: Floats) -> None:
    """Adds places to a cache of one frame's heads and attends from each of them to itself and all before it.

    heads flat [R S 3 H d] queries, keys, values of the places first, ..., first + S - 1; cache [R, K, 3 H, d'] with K
    at most MOST_PLACES and zeros between d and d', scratch: see frame_cache_shapes; out [R, S, H, d]. A cache of one
    row serves any number of rows that come with all their places.
    """
    rows, places, count, width = out.shape
    caches, streams, padded = cache.shape[0], cache.shape[1], cache.shape[3]
    place = 3 * count * padded
    cache, out = cache.reshape(-1), out.reshape(-1)
    for r in range(rows):
        row = r % caches * streams * place
        for s in range(places):
            for h in range(3 * count):
                at = ((r * places + s) * 3 * count + h) * width
                copy(heads, at, cache, row + (first + s) * place + h * padded, width)
        for s in range(places):
            known, begin = first + s + 1, (r * places + s) * count * width
            _weigh_frame(cache, row, place, known, count, padded, np.float32(width**-0.5), scratch)
            for h in range(count):
                value = row + (2 * count + h) * padded
                for j in range(0, width, LANES):
                    mixed = splat(ZERO)
                    for p in range(known):
                        mixed = fma(splat(scratch[h * LANES + p]), load(cache, value + p * place + j), mixed)
                    store_some(out, begin + h * width + j, mixed, width - j)


@compiled
def _weigh_frame(
    cache: Floats, row: int, place: int, known: int, count: int, padded: int, scale: np.float32, weights: Floats
) -> None:
    """Weights [H, LANES] of the known places of a row, as the last of them sees them."""
    for h in range(count):
        query, scores = row + (known - 1) * place + h * padded, splat(LOWEST)
        for p in range(known):
            key, product = row + p * place + (count + h) * padded, splat(ZERO)
            for j in range(0, padded, 2 * LANES):
                product = fma(load(cache, query + j), load(cache, key + j), product)
                product = fma(load(cache, query + j + LANES), load(cache, key + j + LANES), product)
            scores = simd.put(scores, p, simd.total(product))
        store(weights, h * LANES, scores)
    for h in range(count):
        scores = load(weights, h * LANES)
        weight = simd.exp(simd.multiply(simd.subtract(scores, splat(simd.greatest(scores))), splat(scale)))
        store(weights, h * LANES, simd.multiply(weight, splat(ONE / simd.total(weight))))


@compiled
def attention_gradient(
    queries: Floats,
    keys: Floats,
    values: Floats,
    grad: Floats,
    scratch: Floats,
    to_queries: Floats,
    to_keys: Floats,
    to_values: Floats,
) -> None:
    """Gradient of causal attention over whole sequences.

        dV = P^T dO,   dS = P (dO V^T - sum_j P dO V^T) / sqrt(d),   dQ = dS K,   dK = dS^T Q

    queries, grad, to_queries [R, H, S, d]; keys, values, to_keys, to_values [R, G, S, d], the last two zero at first
    as is to_queries; scratch as gradient_scratch says. P is worked out again from queries and keys.
    """
    rows, heads, places, width = queries.shape
    shared, length = heads // keys.shape[1], scratch.size // 2
    scale = np.float32(width**-0.5)
    queries, keys, values, grad = queries.reshape(-1), keys.reshape(-1), values.reshape(-1), grad.reshape(-1)
    to_queries, to_keys, to_values = to_queries.reshape(-1), to_keys.reshape(-1), to_values.reshape(-1)
    for n in range(rows * heads):
        first = n // shared * places * width  # of the keys and values
        for i in range(places):
            at = (n * places + i) * width
            for j in range(i + 1):
                scratch[j] = _inner(queries, at, keys, first + j * width, width)
                scratch[length + j] = _inner(grad, at, values, first + j * width, width)
            softmax(scratch, 0, i + 1, scale)
            mean = ZERO
            for j in range(i + 1):
                mean += scratch[j] * scratch[length + j]
            for j in range(i + 1):
                weight = scratch[j]
                change = weight * (scratch[length + j] - mean) * scale
                _add(change, keys, first + j * width, to_queries, at, width)
                _add(change, queries, at, to_keys, first + j * width, width)
                _add(weight, grad, at, to_values, first + j * width, width)


@compiled
def _inner(x: Floats, at: int, y: Floats, begin: int, width: int) -> np.float32:
    """Inner product of two runs of numbers."""
    added = splat(ZERO)
    for j in range(0, width, LANES):
        added = fma(load_some(x, at + j, width - j), load_some(y, begin + j, width - j), added)
    return simd.total(added)


@compiled
def _add(factor: np.float32, x: Floats, at: int, y: Floats, begin: int, width: int) -> None:
    """Adds a multiple of one run of numbers to another."""
    for j in range(0, width, LANES):
        added = fma(splat(factor), load_some(x, at + j, width - j), load_some(y, begin + j, width - j))
        store_some(y, begin + j, added, width - j)


def gradient_scratch(places: int) -> int:
    """Length of the scratch for attention_gradient."""
    return 2 * simd.up(places, LANES)


def sequence_cache_shapes(rows: int, key_heads: int, places: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of keys, values and scratch for attend_sequence."""
    length, padded = simd.up(places, KEY_STEP), simd.up(width, LANES)
    return (rows, key_heads, width, length), (rows, key_heads, length, padded), (HEADS * (padded + length),)


def frame_cache_shapes(rows: int, streams: int, heads: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of cache and scratch for attend_frame."""
    return (rows, streams, 3 * heads, simd.up(width, 2 * LANES)), (heads * LANES,)
