"""A MusicGen's weights laid out for sampling on a CPU, and the steps that use them.

Products, and what lies between them, run compiled kernels over buffers made once a call, so that a row's result does
not hang on the rows beside it. In float32 they compute what the model's own modules do, up to rounding. In bfloat16
the weights, what goes into a product, and the caches have 16 bits; sums, states, norms and logits have 32.

Letters: B rows, R = B or, guided, 2 B with the null condition's after the others, D width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from policy.compiled import decoder
from policy.compiled.half import Numbers, pairs_of
from policy.compiled.product import TILE_COLUMNS, columns, pack
from policy.compiled.simd import LANES, Floats, Integers, up
from policy.linear import lent
from policy.musicgen.melody import MelodyTrunk
from policy.musicgen.model import MusicGen
from policy.musicgen.t5 import PAD
from policy.musicgen.trunk import Layer, sinusoids
from policy.threads import share_rows

if TYPE_CHECKING:
    from policy.musicgen.packed_prefix import Prefixes

Precision = Literal["float32", "bfloat16"]
Caches = tuple[Numbers, Numbers]  # keys and values of all layers: shapes [layers, *decoder.cache_shapes(...)]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
PAIR_STEP = 2 * LANES  # what goes into a product is laid out in rows of a multiple of this
LEAST_WORK = 4_000_000  # multiplications that are worth a thread of their own
SMALL_BYTES = 24_000_000  # of weights that stay in a cache, so that each thread may read all of them


class Packed:
    """y = x W^T."""

    def __init__(self, weight: Tensor, precision: Precision) -> None:
        self.outputs, self.inputs = weight.shape
        self.half = precision == "bfloat16"
        filled, missing = weight.detach().cpu(), -self.inputs % PAIR_STEP
        if missing:
            filled = nn.functional.pad(filled, (0, missing))
        self.panels: Any = pack(_pairs(filled)) if self.half else pack(lent(filled.float()))

    def inputs_of(self, rows: int) -> Numbers:
        """Room for x [R, I'], zeros behind I."""
        return room((rows, up(self.inputs, PAIR_STEP)), self.half)

    def outputs_of(self, rows: int) -> Floats:
        """Room for y [R, O]."""
        return np.empty((rows, self.outputs), np.float32)

    def __call__(self, x: Numbers, out: Floats, shared: bool = False) -> Floats:
        """x [R, I'] -> out [R, O]; shared: by all of the process's threads."""
        taken: Any = pairs_of(x) if self.half else x
        least = 1 + LEAST_WORK // (len(x) * x.shape[1] * TILE_COLUMNS)
        _share(shared, len(self.panels), least, lambda begin, end: columns(taken, self.panels, begin, end, out))
        return out


def room(shape: tuple[int, ...], half: bool) -> Numbers:
    """Zeros of 16 or 32 bits."""
    return np.zeros(shape, np.uint16) if half else np.zeros(shape, np.float32)


def _pairs(weight: Tensor) -> Any:
    """[O, I] -> pairs of bfloat16 [O, I / 2]."""
    return pairs_of(weight.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16))


def _share(shared: bool, count: int, least: int, work: Any) -> None:
    if shared:
        share_rows(count, least, work)
    else:
        work(0, count)


class Norm:
    """A layer norm's factors."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.weight, self.bias = as_array(norm.weight), as_array(norm.bias)

    def __call__(self, x: Floats, added: Floats, out: Numbers) -> Numbers:
        """x += added, out = norm(x): [R, D], added maybe empty."""
        decoder.norm(x, added, self.weight, self.bias, out)
        return out


class PackedLayer:
    """One layer's weights."""

    def __init__(self, layer: Layer, precision: Precision) -> None:
        self.norm_attention, self.norm_hidden = Norm(layer.norm_attention), Norm(layer.norm_hidden)
        self.qkv = Packed(layer.qkv.weight, precision)
        self.attention_out = Packed(layer.attention_out.weight, precision)
        if layer.crossed:
            self.norm_cross = Norm(layer.norm_cross)
            self.cross_query = Packed(layer.cross_query.weight, precision)
            self.cross_key_value = Packed(layer.cross_key_value.weight, precision)
            self.cross_out = Packed(layer.cross_out.weight, precision)
        self.hidden = Packed(layer.hidden.weight, precision)
        self.hidden_out = Packed(layer.hidden_out.weight, precision)


class PackedMusicGen:
    """All weights of a policy, but for its text encoder, as they were when this was made."""

    @torch.no_grad()
    def __init__(self, policy: MusicGen, precision: Precision = "float32") -> None:
        self.prompts, self.shapes, self.half = policy.prompts, policy.shapes, precision == "bfloat16"
        trunk = policy.trunk
        text = trunk.project_text
        self.project_text = None if text is None else (Packed(text.weight, "float32"), as_array(text.bias))
        self.tables = np.stack([as_array(table.weight) for table in trunk.embed_codes])  # type: ignore[arg-type]
        self.positions, self.norm = as_array(trunk.positions), Norm(trunk.norm)
        self.silence = as_array(trunk.silence()) if isinstance(trunk, MelodyTrunk) else np.empty((0, 0), np.float32)
        self.layers = [PackedLayer(layer, precision) for layer in trunk.blocks]
        self.heads = Packed(policy.heads.weight, precision)
        whole = sum(parameter.numel() for parameter in policy.parameters())
        self.small = whole * (2 if self.half else 4) <= SMALL_BYTES

    def places(self, count: int) -> Floats:
        """The table of positions, of so many at least."""
        if count <= len(self.positions):
            return self.positions
        return as_array(sinusoids(count, self.shapes.width))

    def projected(self, states: Tensor) -> Floats:
        """T5's states of one text [S, W] -> [S, D]."""
        if self.project_text is None or not len(states):
            return as_array(states)
        project, bias = self.project_text
        x = project.inputs_of(len(states))
        decoder.fill(as_array(states), x)
        return project(x, project.outputs_of(len(states))) + bias

    def condition(self, text: Tensor) -> Text | None:
        """The keys and values of texts [N, L] in every layer; None if none has a prompt."""
        return Text(self, text) if bool((text != PAD).any()) else None


class Text:
    """What cross-attention attends to: the U different ones of texts [N, L], each computed once."""

    @torch.no_grad()
    def __init__(self, weights: PackedMusicGen, text: Tensor) -> None:
        different, text_of = torch.unique(text, dim=0, return_inverse=True)
        states, known = weights.prompts.states(different).float(), different != PAD
        found = [weights.projected(row[places]) for row, places in zip(states, known, strict=True)]
        self.place_of, self.counts = text_of.numpy().astype(np.int64), known.sum(1).numpy().astype(np.int64)
        heads, width = weights.shapes.heads, weights.shapes.width // weights.shapes.heads
        shapes = decoder.cache_shapes(len(found), heads, int(self.counts.max()), width)
        self.layers = [tuple(room(shape, weights.half) for shape in shapes) for _ in weights.layers]
        for layer, caches in zip(weights.layers, self.layers, strict=True):
            for place, rows in enumerate(found):
                if len(rows):
                    x = layer.cross_key_value.inputs_of(len(rows))
                    decoder.fill(rows, x)
                    both = layer.cross_key_value(x, layer.cross_key_value.outputs_of(len(rows)))
                    decoder.keep_text(both.reshape(len(rows), 2, heads, width), *caches, place)


class Rows:
    """Buffers of R rows on their way through the layers."""

    def __init__(self, weights: PackedMusicGen, rows: int, shared: bool) -> None:
        shapes, first = weights.shapes, weights.layers[0]
        self.weights, self.shared = weights, shared
        self.x, self.normed = first.attention_out.outputs_of(rows), first.qkv.inputs_of(rows)
        self.added, self.attended = np.empty_like(self.x), first.attention_out.inputs_of(rows)
        self.qkv = first.qkv.outputs_of(rows)
        self.qkv_heads = self.qkv.reshape(rows, 3, shapes.heads, shapes.width // shapes.heads)
        self.hidden, self.activated = first.hidden.outputs_of(rows), first.hidden_out.inputs_of(rows)

    def through(self, attend: Callable[[int], None], cross: Callable[[int], None] | None = None) -> Floats:
        """Takes x [R, D] through all layers -> what is still to be added to it. `attend` makes `attended` of a layer's
        `qkv_heads`; `cross` changes x and `added`."""
        x, added = self.x, self.added
        nothing = added[:0]
        before = nothing
        for place, layer in enumerate(self.weights.layers):
            layer.qkv(layer.norm_attention(x, before, self.normed), self.qkv, self.shared)
            attend(place)
            layer.attention_out(self.attended, added, self.shared)
            if cross is not None:
                cross(place)
            layer.hidden(layer.norm_hidden(x, added, self.normed), self.hidden, self.shared)
            decoder.gelu(self.hidden, self.activated)
            layer.hidden_out(self.activated, added, self.shared)
            before = added
        return before


class Steps(Rows):
    """Caches and buffers of `rows` rows of at most `steps` steps; a row whose place is 0 begins anew. `texts` [B] says
    which text each is conditioned on, through cross-attention (text) or by what its caches begin with (prefixes)."""

    def __init__(
        self,
        weights: PackedMusicGen,
        text: Text | None,
        rows: int,
        steps: int,
        guidance: float,
        shared: bool,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.guidance, self.guided = np.float32(guidance), guidance != 1.0
        self.rows, self.text, self.prefixes = rows, text, prefixes
        self.texts, self.before = np.zeros(rows, np.int64), np.zeros(rows, np.int64)  # before: places of the prefix
        self.copies = self.rows * (2 if self.guided else 1)
        super().__init__(weights, self.copies, shared)
        places = steps if prefixes is None else prefixes.longest + steps
        self.caches, self.positions = caches_of(weights, self.copies, places), weights.places(places)
        if text is not None:
            self.queries = weights.layers[0].cross_query.outputs_of(self.rows)
            self.query_heads = self.queries.reshape(self.rows, weights.shapes.heads, -1)
        self.state, self.logits = np.empty_like(self.x), weights.heads.outputs_of(self.rows)
        self.headed = weights.heads.inputs_of(self.rows)

    def begin(self, row: int, text: int) -> None:
        """A row is conditioned on another text from now on; its next place is 0."""
        self.texts[row] = text
        if self.prefixes is not None:
            null_row = self.rows + row if self.guided else None
            self.before[row] = self.prefixes.begin(text, self.caches, row, null_row)

    def next(self, shown: Integers, places: Integers) -> Floats:
        """The tokens [B, K] that rows show at their places [B] -> logits [B, K V] of what they show next."""
        weights, x, places = self.weights, self.x, self.before + places
        decoder.embed(weights.tables, shown, self.positions, places, x)
        before = self.through(
            lambda layer: self._attend_past(layer, places), None if self.text is None else self._cross
        )
        if self.guided:
            weights.norm(x, before, self.state)
            decoder.guide(self.state, self.guidance, self.headed)
        else:
            weights.norm(x, before, self.headed)
        return weights.heads(self.headed, self.logits, self.shared)

    def _cross(self, place: int) -> None:
        assert self.text is not None
        layer, rows, added = self.weights.layers[place], self.rows, self.added
        layer.cross_query(layer.norm_cross(self.x[:rows], added[:rows], self.normed[:rows]), self.queries, self.shared)
        counts, (keys, values) = self.text.counts, self.text.layers[place]
        decoder.attend_text(self.query_heads, self.texts, counts, keys, values, self.attended[:rows])
        layer.cross_out(self.attended[:rows], added[:rows], self.shared)

    def _attend_past(self, place: int, places: Integers) -> None:
        keys, values = (cache[place] for cache in self.caches)
        least = 1 + LEAST_WORK // (2 * int(places.max() + 1) * self.x.shape[1])

        def work(begin: int, end: int) -> None:
            decoder.attend_past(self.qkv_heads, places, keys, values, self.attended, begin, end)

        _share(self.shared, self.copies, least, work)


def caches_of(weights: PackedMusicGen, rows: int, places: int) -> Caches:
    """Empty ones, of all layers in one piece, which the system then maps in large pages."""
    heads, width = weights.shapes.heads, weights.shapes.width // weights.shapes.heads
    keys, values = (
        room((len(weights.layers), *shape), weights.half) for shape in decoder.cache_shapes(rows, heads, places, width)
    )
    return keys, values


def as_array(x: Tensor) -> Floats:
    """A copy of a weight."""
    return np.array(x.detach().cpu().float().numpy(), np.float32, order="C")
