"""Matrix products y = x W^T on a CPU, at the processor's full speed for any number of rows.

Every y is one chain of fused multiply-adds along the inputs, whatever the shape of the tiles that it is worked out in:
so one row alone, a batch, and all places of a training sequence get the same bits. Libraries promise no such thing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import types

from policy.compiled.half import add_product
from policy.compiled.once import compiled
from policy.compiled.simd import INTS, LANES, VECTOR, Floats, array_data, fetch_at, intrinsic, splat_of, up, vector_at

# A tile's sums stay in registers: AVX-512 has 32 of 16 numbers; with others, a vector here is several of theirs.
TILE_ROWS, TILE_VECTORS = (8, 2) if binding.get_host_cpu_features().get("avx512f") else (6, 1)
TILE_COLUMNS = TILE_VECTORS * LANES
LINE = 16  # numbers of a cache line
ROWS_AT_ONCE = 64  # of x, which then stay in the cache while the weights pass by


def pack(weight: Floats) -> Floats:
    """Weight [O, I] -> panels [O / TILE_COLUMNS, I, TILE_COLUMNS], filled up with zeros. Pairs stay pairs."""
    outputs, inputs = weight.shape
    panels = np.zeros((up(outputs, TILE_COLUMNS) // TILE_COLUMNS, inputs, TILE_COLUMNS), weight.dtype)
    _pack(weight, panels)
    return panels


@compiled
def _pack(weight: Floats, panels: Floats) -> None:
    outputs, inputs = weight.shape
    for panel in range(panels.shape[0]):
        first = panel * TILE_COLUMNS
        for begin in range(0, inputs, LANES):  # in blocks, so that what is read and what is written stay in the cache
            for column in range(min(TILE_COLUMNS, outputs - first)):
                for i in range(begin, min(begin + LANES, inputs)):
                    panels[panel, i, column] = weight[first + column, i]


@compiled
def product(x: Floats, panels: Floats, out: Floats) -> None:
    """x [R, I], panels as `pack` makes them of a weight [O, I], out [R, O]."""
    columns(x, panels, 0, panels.shape[0], out)


@compiled
def columns(x: Floats, panels: Floats, begin_panel: int, end_panel: int, out: Floats) -> None:
    """The columns of `product` that some of the panels make.

    x and panels may be of pairs of bfloat16 (policy.compiled.half), I then counts pairs.
    """
    rows, inputs, outputs = x.shape[0], x.shape[1], out.shape[1]
    first, behind = begin_panel * TILE_COLUMNS, min(end_panel * TILE_COLUMNS, outputs)
    x, panels, out = x.reshape(-1), panels.reshape(-1), out.reshape(-1)
    edge = np.empty(TILE_ROWS * TILE_COLUMNS, np.float32)
    for begin in range(0, rows, ROWS_AT_ONCE):
        end = min(begin + ROWS_AT_ONCE, rows)
        share = TILE_COLUMNS // ((end - begin + TILE_ROWS - 1) // TILE_ROWS)  # of the next panel, fetched by each tile
        for column in range(first, behind, TILE_COLUMNS):
            whole, panel = column + TILE_COLUMNS <= outputs, column * inputs
            for row in range(begin, end, TILE_ROWS):
                last = min(TILE_ROWS, end - row) - 1
                ahead = panel + TILE_COLUMNS * inputs + (row - begin) // TILE_ROWS * share * inputs
                if whole:
                    to = row * outputs + column
                    _tile(x, row * inputs, inputs, last, panels, panel, ahead, share, out, to, outputs)
                    continue
                _tile(x, row * inputs, inputs, last, panels, panel, ahead, share, edge, 0, TILE_COLUMNS)
                for r in range(last + 1):
                    for c in range(outputs - column):
                        out[(row + r) * outputs + column + c] = edge[r * TILE_COLUMNS + c]


@intrinsic
def _tile(
    typing: Any,
    x: Any,
    at: Any,
    depth: Any,
    last: Any,
    panels: Any,
    begin: Any,
    ahead: Any,
    share: Any,
    out: Any,
    to: Any,
    step: Any,
) -> Any:
    """TILE_ROWS rows, `depth` numbers each, from x[at] on, by one panel -> out[to], rows `step` apart.

    Only the rows 0, ..., last exist: the last is worked out again in place of those behind it. Meanwhile panels[ahead]
    and what follows are fetched into the cache, `share` numbers for each of depth.
    """
    index, paired = types.intp, panels.dtype == types.uint32

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        lanes = INTS if paired else VECTOR
        _, at, depth, last, _, begin, ahead, share, _, to, step = values
        source, weights, target = (array_data(context, builder, signature, values, place) for place in (0, 4, 8))
        number = at.type
        existing = [ir.Constant(number, row) for row in range(TILE_ROWS)]
        existing = [builder.select(builder.icmp_signed("<", row, last), row, last) for row in existing]
        rows = [builder.gep(source, [builder.add(at, builder.mul(row, depth))]) for row in existing]
        following_panel, weights = builder.gep(weights, [ahead]), builder.gep(weights, [begin])
        before, inside = builder.block, builder.append_basic_block("inside")
        after = builder.append_basic_block("after")
        builder.branch(inside)
        builder.position_at_end(inside)
        k = builder.phi(number)
        sums = [[builder.phi(VECTOR) for _ in range(TILE_VECTORS)] for _ in rows]
        first = builder.mul(k, ir.Constant(number, TILE_COLUMNS))
        panel = [
            builder.load(
                vector_at(builder, weights, builder.add(first, ir.Constant(number, v * LANES)), lanes), align=4
            )
            for v in range(TILE_VECTORS)
        ]
        fetched = builder.mul(k, share)
        for place in range(0, TILE_COLUMNS, LINE):
            fetch_at(builder, builder.gep(following_panel, [builder.add(fetched, ir.Constant(number, place))]))
        added = []
        for row, line in zip(rows, sums, strict=True):
            factor = splat_of(builder, builder.load(builder.gep(row, [k])), lanes)
            added.append([add_product(builder, factor, w, s) for w, s in zip(panel, line, strict=True)])
        following = builder.add(k, ir.Constant(number, 1))
        k.add_incoming(ir.Constant(number, 0), before)
        k.add_incoming(following, inside)
        for line, grown in zip(sums, added, strict=True):
            for old, new in zip(line, grown, strict=True):
                old.add_incoming(ir.Constant(VECTOR, [0.0] * LANES), before)
                old.add_incoming(new, inside)
        builder.cbranch(builder.icmp_signed("<", following, depth), inside, after)
        builder.position_at_end(after)
        for row, line in zip(existing, added, strict=True):
            for v, result in enumerate(line):
                place = builder.add(to, builder.add(builder.mul(row, step), ir.Constant(number, v * LANES)))
                builder.store(result, vector_at(builder, target, place), align=4)
        return context.get_dummy_value()

    return types.none(x, index, index, index, panels, index, index, index, out, index, index), generate
