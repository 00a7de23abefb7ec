"""Numbers of 16 bits (bfloat16) beside those of 32: arrays of uint16 hold them, arrays of uint32 hold pairs of them.

Kernels that read and write through here serve both kinds of array; what they calculate with has 32 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numpy.typing import NDArray

from policy.compiled.simd import INTS, LANES, VECTOR, array_data, call, intrinsic, masked_store, vector

Numbers = NDArray[np.float32] | NDArray[np.uint16]
SHORT = ir.IntType(16)
SHORTS = ir.VectorType(SHORT, LANES)
NATIVE = LANES == 16 and bool(binding.get_host_cpu_features().get("avx512bf16"))
NOT_A_NUMBER = 0x7FC0


class _BFloat(ir.Type):
    """LLVM's type, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def _constant(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


def _widened(builder: Any, x: Any) -> Any:
    """16 bits -> 32, exactly."""
    return builder.bitcast(builder.shl(builder.zext(x, INTS), _constant(16)), VECTOR)


def _rounded(builder: Any, x: Any) -> Any:
    """32 bits -> the nearest of 16, to even."""
    bits = builder.bitcast(x, INTS)
    odd = builder.and_(builder.lshr(bits, _constant(16)), _constant(1))
    nearest = builder.lshr(builder.add(builder.add(bits, _constant(0x7FFF)), odd), _constant(16))
    nearest = builder.select(builder.fcmp_unordered("uno", x, x), _constant(NOT_A_NUMBER), nearest)
    return builder.trunc(nearest, SHORTS)


def _short(array: Any) -> bool:
    return bool(array.dtype == types.uint16)


def _place(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    pointer = builder.gep(array_data(context, builder, signature, values, 0), [values[1]])
    return builder.bitcast(pointer, (SHORTS if _short(signature.args[0]) else VECTOR).as_pointer())


@intrinsic
def read(typing: Any, array: Any, index: Any) -> Any:
    """16 numbers of a flat array of either kind, all of which must exist."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found = builder.load(_place(context, builder, signature, values), align=2)
        return _widened(builder, found) if _short(array) else found

    return vector(array, types.intp), generate


@intrinsic
def write(typing: Any, array: Any, index: Any, x: Any) -> Any:
    """Writes 16 numbers into a flat array of either kind."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x = _rounded(builder, values[2]) if _short(array) else values[2]
        builder.store(x, _place(context, builder, signature, values), align=2)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), generate


@intrinsic
def write_some(typing: Any, array: Any, index: Any, x: Any, count: Any) -> Any:
    """Writes the first `count` of 16 numbers into a flat array of either kind."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        x = _rounded(builder, values[2]) if _short(array) else values[2]
        masked_store(builder, x, _place(context, builder, signature, values), values[3])
        return context.get_dummy_value()

    return types.none(array, types.intp, vector, types.intp), generate


def add_product(builder: Any, x: Any, w: Any, total: Any) -> Any:
    """total + x w in each lane, rounded once; where x and w are lanes of pairs, total + x_0 w_0 + x_1 w_1."""
    if x.type == VECTOR:
        return call(builder, "fma", x, w, total)
    if NATIVE:
        kind = ir.FunctionType(VECTOR, [VECTOR, _PAIRS, _PAIRS])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return builder.call(function, [total, builder.bitcast(x, _PAIRS), builder.bitcast(w, _PAIRS)])
    low = [builder.bitcast(builder.shl(pairs, _constant(16)), VECTOR) for pairs in (x, w)]
    high = [builder.bitcast(builder.and_(pairs, _constant(0xFFFF0000)), VECTOR) for pairs in (x, w)]
    return call(builder, "fma", *low, call(builder, "fma", *high, total))


def pairs_of(numbers: Numbers) -> NDArray[np.uint32]:
    """[..., I] -> [..., I / 2], the same memory."""
    return numbers.view(np.uint32)
