"""Vectors of 16 float32 numbers for numba kernels.

What numba makes of a plain loop hangs on what its compiler finds out about it: sums stay in memory, or change their
order. Here a `vector` stays in registers and each operation rounds as written, so that two kernels of the same
operations give the same bits. LLVM maps the 16 lanes to what the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numpy.typing import NDArray

LANES = 16
ZERO, LOWEST = np.float32(0), np.float32(-np.inf)
FLOAT, INT = ir.FloatType(), ir.IntType(32)
VECTOR, INTS = ir.VectorType(FLOAT, LANES), ir.VectorType(INT, LANES)

# exp(x) = 2^n exp(r), n = round(x / ln 2): ln 2 in two parts, and a polynomial for |r| <= ln 2 / 2
# Source: the coefficients of Cephes' expf (Moshier); the error is about one unit in the last place.
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
EXP_TERMS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
EXP_LEAST, EXP_MOST = -86.0, 88.0  # below the one it is 0; beyond the other hardly a float32
ROUNDING = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits

Emit = Callable[..., Any]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
intrinsic: Any = extending.intrinsic  # a function that writes LLVM code; called with the values alone


def up(number: int, step: int) -> int:
    """The least multiple of `step` that is not below `number`."""
    return -(-number // step) * step


class Vector(types.Type):
    """Numba's type of 16 float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = Vector()


@extending.register_model(Vector)
class VectorModel(extending.models.PrimitiveModel):
    """How a vector lies in LLVM."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


def _one(emit: Emit, result: types.Type, argument: types.Type = vector) -> Any:
    """emit(builder, x) as a function of numba."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    return intrinsic(lambda typing, x: (result(argument), generate))


def _two(emit: Emit, second: types.Type = vector) -> Any:
    """emit(builder, x, y) -> vector as a function of numba."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    return intrinsic(lambda typing, x, y: (vector(vector, second), generate))


def _constant(value: float) -> Any:
    return ir.Constant(VECTOR, [value] * LANES)


def call(builder: Any, name: str, *values: Any) -> Any:
    """LLVM's own function of vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), values)


def splat_of(builder: Any, x: Any, kind: Any = VECTOR) -> Any:
    """One number in all lanes."""
    empty = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(empty, x, ir.Constant(INT, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(INTS, [0] * LANES))


def _which(builder: Any, comparison: str, number: Any) -> Any:
    """Which lanes' places are `comparison` number."""
    lanes = ir.Constant(INTS, list(range(LANES)))
    return builder.icmp_signed(comparison, lanes, splat_of(builder, builder.trunc(number, INT), INTS))


def _fold(builder: Any, x: Any, combine: Emit) -> Any:
    """All lanes into one, in halves."""
    for half in (8, 4, 2, 1):
        order = [(lane + half) % LANES for lane in range(LANES)]
        x = combine(builder, x, builder.shuffle_vector(x, x, ir.Constant(INTS, order)))
    return builder.extract_element(x, ir.Constant(INT, 0))


def _maximum(builder: Any, x: Any, y: Any) -> Any:
    """The larger of each lane; x where either is not a number."""
    return builder.select(builder.fcmp_ordered("<", x, y), y, x)


def _exp(builder: Any, x: Any) -> Any:
    """exp of each lane; exactly 0 from EXP_LEAST down; not a number stays so."""
    small = builder.fcmp_ordered("<", x, _constant(EXP_LEAST))
    over = builder.fcmp_ordered(">", x, _constant(EXP_MOST))
    x = builder.select(over, _constant(EXP_MOST), builder.select(small, _constant(EXP_LEAST), x))
    shifted = call(builder, "fma", x, _constant(LOG2_E), _constant(ROUNDING))
    n = builder.fsub(shifted, _constant(ROUNDING))
    r = call(builder, "fma", n, _constant(-LN2_HIGH), x)
    r = call(builder, "fma", n, _constant(-LN2_LOW), r)
    result = _constant(EXP_TERMS[0])
    for term in (*EXP_TERMS[1:], 1.0, 1.0):
        result = call(builder, "fma", result, r, _constant(term))
    power = builder.shl(builder.bitcast(shifted, INTS), ir.Constant(INTS, [23] * LANES))  # n into the exponent's place
    result = builder.bitcast(builder.add(builder.bitcast(result, INTS), power), VECTOR)
    result = builder.select(small, _constant(0.0), result)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, result)


def _turn(builder: Any, x: Any, turns: Any) -> Any:
    """Neighbouring lanes of x as complex numbers times those of `turns`, no product and sum rounded together."""

    def lanes(of: Any, first: int, second: int) -> Any:
        order = [pair + lane for pair in range(0, LANES, 2) for lane in (first, second)]
        return builder.shuffle_vector(of, of, ir.Constant(INTS, order))

    signed = builder.fmul(lanes(turns, 1, 1), ir.Constant(VECTOR, [-1.0, 1.0] * (LANES // 2)))
    return builder.fadd(builder.fmul(x, lanes(turns, 0, 0)), builder.fmul(lanes(x, 1, 0), signed))


splat = _one(splat_of, vector, types.float32)
exp = _one(_exp, vector)
total = _one(lambda builder, x: _fold(builder, x, lambda b, x, y: b.fadd(x, y)), types.float32)
greatest = _one(lambda builder, x: _fold(builder, x, _maximum), types.float32)
add = _two(lambda builder, x, y: builder.fadd(x, y))
subtract = _two(lambda builder, x, y: builder.fsub(x, y))
multiply = _two(lambda builder, x, y: builder.fmul(x, y))
divide = _two(lambda builder, x, y: builder.fdiv(x, y))
maximum = _two(_maximum)
turn = _two(_turn)
some = _two(  # the others are zero
    lambda b, x, count: b.select(_which(b, "<", count), x, _constant(0.0)), types.intp
)
first_of = _two(  # the others are lower than any
    lambda b, x, count: b.select(_which(b, "<", count), x, _constant(float("-inf"))), types.intp
)


@intrinsic
def put(typing: Any, x: Any, lane: Any, value: Any) -> Any:
    """x with a number in one lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.select(_which(builder, "==", values[1]), splat_of(builder, values[2]), values[0])

    return vector(vector, types.intp, types.float32), generate


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once."""
    return vector(vector, vector, vector), lambda context, builder, signature, values: call(builder, "fma", *values)


def array_data(context: Any, builder: Any, signature: Any, values: Any, place: int) -> Any:
    """Pointer to the numbers of the array that is argument `place`."""
    return context.make_array(signature.args[place])(context, builder, values[place]).data


def vector_at(builder: Any, data: Any, index: Any, kind: Any = VECTOR) -> Any:
    """Pointer to the vector that begins at an index."""
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def fetch_at(builder: Any, pointer: Any) -> None:
    """A hint, which never fails: what lies there goes into the second-level cache."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    read, second_level, data = (ir.Constant(INT, value) for value in (0, 2, 1))
    builder.call(function, [builder.bitcast(pointer, byte), read, second_level, data])


def masked_store(builder: Any, x: Any, pointer: Any, count: Any) -> None:
    """Writes the first `count` lanes of x to a pointer to a vector of its kind."""
    mask, name = _which(builder, "<", count), {"float": "f32", "i16": "i16"}[str(x.type.element)]
    kind = ir.FunctionType(ir.VoidType(), [x.type, pointer.type, INT, mask.type])
    masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}{name}.p0")
    align = ir.Constant(INT, 4 if name == "f32" else 2)
    builder.call(masked, [x, pointer, align, mask])


def _place(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return vector_at(builder, array_data(context, builder, signature, values, 0), values[1])


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """16 numbers of a flat array, all of which must exist."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_place(context, builder, signature, values), align=4)

    return vector(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, x: Any) -> Any:
    """Writes 16 numbers into a flat array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _place(context, builder, signature, values), align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


@intrinsic
def fetch(typing: Any, array: Any, index: Any) -> Any:
    """A hint that what lies at an index, which need not exist, will be read soon."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        fetch_at(builder, builder.gep(array_data(context, builder, signature, values, 0), [values[1]]))
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@intrinsic
def load_some(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """The first `count` of 16 numbers of a flat array, zeros behind them."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _place(context, builder, signature, values)
        mask = _which(builder, "<", values[2])
        kind = ir.FunctionType(VECTOR, [pointer.type, INT, mask.type, VECTOR])
        masked = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return builder.call(masked, [pointer, ir.Constant(INT, 4), mask, _constant(0.0)])

    return vector(array, types.intp, types.intp), generate


@intrinsic
def store_some(typing: Any, array: Any, index: Any, x: Any, count: Any) -> Any:
    """Writes the first `count` of 16 numbers into a flat array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        masked_store(builder, values[2], _place(context, builder, signature, values), values[3])
        return context.get_dummy_value()

    return types.none(array, types.intp, vector, types.intp), generate
