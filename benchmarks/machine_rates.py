"""What one call could cost at least: this process's own rates of multiplying and of reading memory, best of a few."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from codec.musicgen_shapes import MusicGenShapes
from policy.compiled.decoder import fill
from policy.musicgen.packed import Packed, Precision

ROWS, WIDTH = 32, 256  # of a product whose weights stay in the cache
READ_BYTES = 256_000_000


@dataclass(frozen=True)
class Rates:
    """flop: multiplications and additions a second, by precision; read: bytes a second."""

    flop: dict[str, float]
    read: float


def machine_rates(attempts: int = 12) -> Rates:
    """The best of some attempts, on as many threads as torch was given for reading, on one for products."""
    flop = {precision: _flop(precision, attempts) for precision in ("float32", "bfloat16")}
    numbers = torch.ones(READ_BYTES // 4)
    return Rates(flop, READ_BYTES / _best(lambda: numbers.sum(), attempts))


def floors_s(
    shapes: MusicGenShapes, rows: int, guided: bool, places: float, half: bool, rates: Rates
) -> tuple[float, float]:
    """A step's arithmetic, and reading weights and caches once; places: of the past, on average."""
    width, both = shapes.width, rows * (2 if guided else 1)
    own = shapes.layers * (4 * width**2 + 2 * width * shapes.hidden)
    cross = shapes.layers * 2 * width**2
    heads = shapes.codebooks * shapes.entries * width
    flop = 2 * (both * own + rows * (cross + heads)) + 4 * both * shapes.layers * width * places
    numbers = own + cross + heads + 2 * both * shapes.layers * width * places
    precision = "bfloat16" if half else "float32"
    return flop / rates.flop[precision], numbers * (2 if half else 4) / rates.read


def _flop(precision: Precision, attempts: int) -> float:
    product = Packed(torch.randn(4 * WIDTH, WIDTH), precision)
    x, out = product.inputs_of(ROWS), product.outputs_of(ROWS)
    fill(np.random.default_rng(0).standard_normal((ROWS, WIDTH), np.float32), x)
    return 2 * ROWS * 4 * WIDTH**2 * 50 / _best(lambda: [product(x, out) for _ in range(50)], attempts)


def _best(call: Callable[[], object], attempts: int) -> float:
    times = []
    for _ in range(attempts):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
