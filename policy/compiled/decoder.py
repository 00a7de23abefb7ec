"""What a MusicGen decoder does between its matrix products, one step of many rows at a time.

Rows may stand at different places of their sequences. Letters: R rows, B of them conditioned on a text, H heads, d a
head's width, D = H d, S places, L = LANES. Arrays that go into products, and caches, hold 32 or 16 bits a number
(policy.compiled.half) and rows that are filled up with zeros; anything else is float32.
"""

from __future__ import annotations

import numpy as np

from policy.compiled import simd
from policy.compiled.attention import softmax
from policy.compiled.half import Numbers, read, write, write_some
from policy.compiled.layers import ONE, add_and_measure
from policy.compiled.once import compiled
from policy.compiled.simd import LANES, ZERO, Floats, Integers, fetch, fma, load_some, splat, store, store_some

MIX = 4 * LANES  # numbers of a value that are mixed at once; values are laid out in rows of a multiple of this
BLOCKS = 2 * LANES  # places whose scores are worked out at once
# erf(z) = 1 - (a_1 t + .. + a_5 t^5) exp(-z^2), t = 1 / (1 + p z), z >= 0, to 1.5e-7
# Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
ERF_P = np.float32(0.3275911)
A1, A2, A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
A4, A5 = np.float32(-1.453152027), np.float32(1.061405429)
HALF, ROOT_HALF = np.float32(0.5), np.float32(0.5**0.5)


@compiled
def embed(tables: Floats, tokens: Integers, positions: Floats, places: Integers, x: Floats) -> None:
    """x [R, D], R = B or 2 B = the sum of the embeddings of tokens [B, K] in tables [K, V, D], + positions [S, D]."""
    entries, width, books = tables.shape[1], tables.shape[2], tables.shape[0]
    tables, positions, out = tables.reshape(-1), positions.reshape(-1), x.reshape(-1)
    for r in range(x.shape[0]):
        b = r % tokens.shape[0]
        for j in range(0, width, LANES):
            known = load_some(tables, tokens[b, 0] * width + j, width - j)
            for k in range(1, books):
                known = simd.add(known, load_some(tables, (k * entries + tokens[b, k]) * width + j, width - j))
            known = simd.add(known, load_some(positions, places[b] * width + j, width - j))
            store_some(out, r * width + j, known, width - j)


@compiled
def norm(x: Floats, added: Floats, weight: Floats, bias: Floats, out: Numbers) -> None:
    """x += added, out = the layer norm of x; all [R, D], added maybe empty, out [R, D'] with D' >= D."""
    rows, width, step = x.shape[0], x.shape[1], out.shape[1]
    x, added, out = x.reshape(-1), added.reshape(-1), out.reshape(-1)
    for r in range(rows):
        begin = r * width
        mean, scale = add_and_measure(x, added, x, begin, width)
        for j in range(0, width, LANES):
            away = simd.multiply(simd.subtract(load_some(x, begin + j, width - j), splat(mean)), splat(scale))
            scaled = fma(away, load_some(weight, j, width - j), load_some(bias, j, width - j))
            write_some(out, r * step + j, scaled, width - j)


@compiled
def fill(x: Floats, out: Numbers) -> None:
    """x [R, I] -> out [R, I']."""
    rows, width, step = x.shape[0], x.shape[1], out.shape[1]
    x, out = x.reshape(-1), out.reshape(-1)
    for r in range(rows):
        for j in range(0, width, LANES):
            write_some(out, r * step + j, load_some(x, r * width + j, width - j), width - j)


@compiled
def gelu(x: Floats, out: Numbers) -> None:
    """out [R, F'] = x (1 + erf(x / sqrt 2)) / 2 of x [R, F]. Source: the exact form of arXiv 1606.08415."""
    rows, width, step = x.shape[0], x.shape[1], out.shape[1]
    x, out = x.reshape(-1), out.reshape(-1)
    for r in range(rows):
        for j in range(0, width, LANES):
            write_some(out, r * step + j, _gelu(load_some(x, r * width + j, width - j)), width - j)


@compiled
def _gelu(x: simd.Vector) -> simd.Vector:
    size = simd.maximum(x, simd.subtract(splat(ZERO), x))  # |x|
    z = simd.multiply(size, splat(ROOT_HALF))
    t = simd.divide(splat(ONE), fma(splat(ERF_P), z, splat(ONE)))
    terms = fma(fma(fma(fma(splat(A5), t, splat(A4)), t, splat(A3)), t, splat(A2)), t, splat(A1))
    away = simd.multiply(simd.multiply(terms, t), simd.exp(simd.multiply(simd.subtract(splat(ZERO), z), z)))
    return simd.multiply(splat(HALF), simd.add(x, simd.multiply(size, simd.subtract(splat(ONE), away))))


@compiled
def guide(x: Floats, guidance: np.float32, out: Numbers) -> None:
    """x [2 B, D], the null condition's rows after the others -> out [B, D'] = null + guidance (conditioned - null)."""
    width, rows, step = x.shape[1], x.shape[0] // 2, out.shape[1]
    x, out = x.reshape(-1), out.reshape(-1)
    for r in range(rows):
        for j in range(0, width, LANES):
            null = load_some(x, (rows + r) * width + j, width - j)
            away = simd.subtract(load_some(x, r * width + j, width - j), null)
            write_some(out, r * step + j, fma(splat(guidance), away, null), width - j)


@compiled
def attend_past(
    heads: Floats, places: Integers, keys: Numbers, values: Numbers, out: Numbers, begin: int, end: int
) -> None:
    """Rows begin, ..., end - 1 at places [B], R = copies B, add to their caches and attend to all that is there.

    heads [R, 3, H, d] queries, keys, values; keys [R, H, S / L, d, L], values [R, H, S, d'] as cache_shapes says; out
    [R, D'].
    """
    count, width, length, padded, step = heads.shape[2], heads.shape[3], values.shape[2], values.shape[3], out.shape[1]
    scratch = np.empty(length, np.float32)
    heads, keys, values, out = heads.reshape(-1), keys.reshape(-1), values.reshape(-1), out.reshape(-1)
    for r in range(begin, end):
        place = places[r % places.size]
        for h in range(count):
            query, head = (r * 3 * count + h) * width, r * count + h
            key, value = query + count * width, query + 2 * count * width
            key_at, value_at = head * length * width, head * length * padded
            _keep_key(heads, key, keys, key_at + place // LANES * width * LANES, place % LANES, width)
            _keep_value(heads, value, values, value_at + place * padded, width)
            begin_out = r * step + h * width
            _attend(
                heads, query, keys, key_at, values, value_at, place + 1, length, width, padded, scratch, out, begin_out
            )


@compiled
def keep_text(heads: Floats, keys: Numbers, values: Numbers, text: int) -> None:
    """Keys and values of one text's places, heads [S, 2, H, d], into the caches' row `text`."""
    places, count, width, length, padded = (
        heads.shape[0],
        heads.shape[2],
        heads.shape[3],
        values.shape[2],
        values.shape[3],
    )
    heads, keys, values = heads.reshape(-1), keys.reshape(-1), values.reshape(-1)
    for s in range(places):
        for h in range(count):
            head, at = text * count + h, (s * 2 * count + h) * width
            _keep_key(heads, at, keys, head * length * width + s // LANES * width * LANES, s % LANES, width)
            _keep_value(heads, at + count * width, values, (head * length + s) * padded, width)


@compiled
def attend_text(
    queries: Floats, texts: Integers, counts: Integers, keys: Numbers, values: Numbers, out: Numbers
) -> None:
    """Rows attend to texts [B], of which counts [U] places exist; 0 where there is none.

    queries [B, H, d]; keys [U, H, S / L, d, L], values [U, H, S, d']; out [B, D'].
    """
    rows, count, width = queries.shape
    length, padded, step = values.shape[2], values.shape[3], out.shape[1]
    scratch = np.empty(length, np.float32)
    queries, keys, values, out = queries.reshape(-1), keys.reshape(-1), values.reshape(-1), out.reshape(-1)
    for r in range(rows):
        text = texts[r]
        for h in range(count):
            begin, head = r * step + h * width, text * count + h
            if counts[text] == 0:
                for j in range(0, width, LANES):
                    write_some(out, begin + j, splat(ZERO), width - j)
                continue
            key_at, value_at, query = head * length * width, head * length * padded, (r * count + h) * width
            _attend(
                queries, query, keys, key_at, values, value_at, counts[text], length, width, padded, scratch, out, begin
            )


@compiled
def _keep_key(heads: Floats, at: int, keys: Numbers, begin: int, lane: int, width: int) -> None:
    """One key into a lane of its block [d, L]: the block is read, changed and written, whatever its numbers are."""
    for j in range(width):
        line = begin + j * LANES
        write(keys, line, simd.put(read(keys, line), lane, heads[at + j]))


@compiled
def _keep_value(heads: Floats, at: int, values: Numbers, begin: int, width: int) -> None:
    for j in range(0, width, LANES):
        write(values, begin + j, load_some(heads, at + j, width - j))


@compiled
def _attend(
    queries: Floats,
    at: int,
    keys: Numbers,
    key_at: int,
    values: Numbers,
    value_at: int,
    count: int,
    length: int,
    width: int,
    padded: int,
    scratch: Floats,
    out: Numbers,
    begin: int,
) -> None:
    """One query's mixture of `count` values. The next head's keys and values, which follow, are fetched meanwhile."""
    next_key, next_value = length * width, length * padded
    for s in range(0, count, BLOCKS):
        left = key_at + s * width
        right = left + LANES * width
        a, b, c, d = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for j in range(0, width - 1, 2):
            one, two = splat(queries[at + j]), splat(queries[at + j + 1])
            fetch(keys, left + next_key + j * LANES)
            fetch(keys, left + next_key + (j + 1) * LANES)
            fetch(keys, right + next_key + j * LANES)
            fetch(keys, right + next_key + (j + 1) * LANES)
            a, b = fma(one, read(keys, left + j * LANES), a), fma(one, read(keys, right + j * LANES), b)
            c, d = fma(two, read(keys, left + (j + 1) * LANES), c), fma(two, read(keys, right + (j + 1) * LANES), d)
        if width % 2:
            j = width - 1
            one = splat(queries[at + j])
            a, b = fma(one, read(keys, left + j * LANES), a), fma(one, read(keys, right + j * LANES), b)
        store(scratch, s, simd.add(a, c))
        store(scratch, s + LANES, simd.add(b, d))
    softmax(scratch, 0, count, np.float32(width**-0.5))
    for j in range(0, width, MIX):
        a, b, c, d = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for s in range(count):
            weight, line = splat(scratch[s]), value_at + s * padded + j
            for i in range(0, MIX, LANES):
                fetch(values, line + next_value + i)
            a, b = fma(weight, read(values, line), a), fma(weight, read(values, line + LANES), b)
            c, d = fma(weight, read(values, line + 2 * LANES), c), fma(weight, read(values, line + 3 * LANES), d)
        write_some(out, begin + j, a, width - j)
        write_some(out, begin + j + LANES, b, width - j - LANES)
        write_some(out, begin + j + 2 * LANES, c, width - j - 2 * LANES)
        write_some(out, begin + j + 3 * LANES, d, width - j - 3 * LANES)


def cache_shapes(rows: int, heads: int, places: int, width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a layer's keys [R, H, S / L, d, L] and values [R, H, S, d'], S and d' up to whole blocks."""
    length = simd.up(places, BLOCKS)
    return (rows, heads, length // LANES, width, LANES), (rows, heads, length, simd.up(width, MIX))
