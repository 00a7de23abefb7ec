"""What a run on a MusicGen will need of memory, from its shapes and settings alone, before anything starts.

float32, and 16-bit states where asked for. Counted: weights, gradients, Adam's moments, what a micro-batch keeps for
its backward pass, caches of keys and values, the codec's waveforms, published versions. An estimate to plan with, not a
measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.session import OBJECT_STORE_BYTES
from cluster.working_copy import local_copy
from codec.musicgen_folder import MusicGenFolder, is_musicgen_folder
from codec.musicgen_shapes import MusicGenShapes
from configs.errors import UserError
from configs.schema import Config
from learner.optimizer_states import MOMENT_BYTES

BYTES = 4  # of a number
PROCESS_BYTES = 400_000_000  # an actor with torch and Ray in it
SAMPLERS = 2  # weights of a module, and as its sampler lays them out
PUBLISHED_VERSIONS = 2  # kept alive by the weight bus
UPDATE_BYTES = 22  # of each number of the largest weight, while 8-bit moments are read and made again on a CPU
KEPT_WIDTHS, KEPT_WIDTHS_NULL = 22, 17  # numbers kept of a token by a layer, in widths; fewer without cross-attention
TEXT_PLACES = 64  # of a long caption, before the tokens of a MusicGen-Melody
KEPT_LOGITS = 14  # arrays of the size of the logits, between them and the loss
PART_NUMBERS = 2**20  # logits of one network that the learner makes at a time: arrays of them fit into a CPU's cache
CODEC_ARRAYS = 3  # of the codec's widest layer at once
T5_BYTES, CODEC_BYTES = 440_000_000, 280_000_000  # of every released MusicGen; codec: with its layout for a CPU
CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes by what holds them. generators: all of them; weights: published versions in the object store."""

    learner: int
    generators: int
    evaluator: int
    weights: int
    others: int  # driver, scorers, replay store, the text encoder that all map

    @property
    def total(self) -> int:
        return self.learner + self.generators + self.evaluator + self.weights + self.others

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size(value)}" for name, value in vars(self).items())
        return f"memory: about {size(self.total)} ({parts})"


def memory_need(config: Config, shapes: MusicGenShapes, filters: int = 64, frozen_bytes: int = T5_BYTES) -> MemoryNeed:
    """filters: of the codec's widest layer; frozen_bytes: of the text encoder."""
    model = shapes.parameters * BYTES
    actors, rollout, evaluation = config.actors, config.sampling, config.evaluation
    guided = config.sampling.guidance_scale != 1.0
    generator = _sampling_bytes(shapes, actors.rollout_size, rollout.seconds, guided, filters)
    evaluator = _sampling_bytes(shapes, evaluation.batch_size, evaluation.seconds, guided, filters)
    count = max(actors.generators, actors.generators_max)
    learners = config.learner.workers if config.learner.parallel == "data" else 1  # else they share one set of networks
    return MemoryNeed(
        learner=learners * _learner_bytes(config, shapes, guided),
        generators=count * (PROCESS_BYTES + _sampler_bytes(config, model) + CODEC_BYTES + generator),
        evaluator=PROCESS_BYTES + SAMPLERS * model + CODEC_BYTES + evaluator,
        weights=PUBLISHED_VERSIONS * model,
        others=(2 + actors.scorers) * PROCESS_BYTES + frozen_bytes,
    )


def object_store_bytes(config: Config) -> int:
    """Of an object store that holds the published versions and the clips between two roles."""
    folder = local_copy(config.policy.checkpoint, "policy.checkpoint")
    if not is_musicgen_folder(folder):
        return OBJECT_STORE_BYTES
    return OBJECT_STORE_BYTES + PUBLISHED_VERSIONS * MusicGenFolder(folder).shapes.parameters * BYTES


def check_memory(need: MemoryNeed, total_bytes: int) -> str:
    """-> the estimate in words. Raises UserError where this machine cannot hold it."""
    if need.total > total_bytes:
        raise UserError(
            f"policy.checkpoint: {need} of {size(total_bytes)} on this machine; lower learner.micro_batch_size, "
            "actors.rollout_size or sampling.seconds, set learner.activation_checkpointing, learner.lora_rank, "
            "learner.optimizer_states=8bit, learner.value_trunk=policy or learner.baseline=leave_one_out, or run on a "
            "cluster"
        )
    return f"{need} of {size(total_bytes)}"


def machine_bytes() -> int:
    """Memory of this machine, or of the container if that has less."""
    physical = psutil.virtual_memory().total
    try:
        limit = int(CGROUP.read_text())
    except (OSError, ValueError):  # no limit, or none told
        return physical
    return min(physical, limit)


def size(count: int) -> str:
    """12.3 GB."""
    return f"{count / 1e9:,.1f} GB"


def _sampler_bytes(config: Config, model: int) -> int:
    """A generator's module, and the weights as its sampler lays them out."""
    return model + (model // 2 if config.actors.generator_precision == "bfloat16" else model)


def _learner_bytes(config: Config, shapes: MusicGenShapes, guided: bool) -> int:
    learner, model = config.learner, shapes.parameters
    own_anchor = config.policy.reference not in ("", config.policy.checkpoint) or not learner.lora_rank
    valued = learner.baseline == "value" and learner.value_trunk == "own"  # a head alone is nothing beside the rest
    heads = shapes.codebooks * shapes.entries * shapes.width
    if learner.lora_rank:
        trained = (2 if valued else 1) * _adapter_parameters(shapes, learner.lora_rank)
        held = model * (2 if own_anchor else 1) + trained + model  # the last: merged to be published
    else:
        trained = model + (model - heads if valued else 0)
        held = model + trained + model  # the last: the anchor
    if learner.workers > 1 or learner.precision != "float32":
        held += model  # whole again, to be published
    learning = (BYTES + 2 * MOMENT_BYTES[learner.optimizer_states]) * trained  # gradient and Adam's two moments
    if learner.optimizer_states == "8bit" and not learner.gpus:
        learning += UPDATE_BYTES * max(shapes.hidden, shapes.codebooks * shapes.entries) * shapes.width
    return PROCESS_BYTES + BYTES * held + round(learning) + _kept_bytes(config, shapes, guided)


def _kept_bytes(config: Config, shapes: MusicGenShapes, guided: bool) -> int:
    """Of one micro-batch, between its forward and its backward pass."""
    rows = min(config.learner.micro_batch_size, config.learner.batch_size)
    frames = round(config.sampling.seconds * shapes.frame_rate_hz)
    places = rows * (_prefix(shapes) + frames + max(shapes.delays))
    conditioned = KEPT_WIDTHS_NULL if shapes.melody else KEPT_WIDTHS
    widths = conditioned + (KEPT_WIDTHS_NULL if guided else 0)
    layers = shapes.layers * widths
    if config.learner.activation_checkpointing:  # each layer's input, and all of the one that is worked out again
        layers = shapes.layers * (2 if guided else 1) + conditioned
    of_a_frame = rows * shapes.codebooks * shapes.entries
    logits = min(of_a_frame * frames, max(of_a_frame, PART_NUMBERS))
    of_a_state = BYTES // 2 if config.learner.precision == "bfloat16" else BYTES
    return of_a_state * places * shapes.width * layers + BYTES * logits * KEPT_LOGITS


def _prefix(shapes: MusicGenShapes) -> int:
    """Places before a row's first step."""
    return shapes.chroma_places + TEXT_PLACES if shapes.melody else 0


def _adapter_parameters(shapes: MusicGenShapes, rank: int) -> int:
    """qkv, attention_out, cross_query, cross_key_value, cross_out, hidden, hidden_out."""
    inputs_and_outputs = (1 + 3) + (1 + 1)
    if not shapes.melody:
        inputs_and_outputs += (1 + 1) + (1 + 2) + (1 + 1)
    return shapes.layers * rank * (inputs_and_outputs * shapes.width + 2 * (shapes.width + shapes.hidden))


def _sampling_bytes(shapes: MusicGenShapes, rows: int, seconds: float, guided: bool, filters: int) -> int:
    steps = _prefix(shapes) + round(seconds * shapes.frame_rate_hz) + max(shapes.delays)
    cache = 2 * shapes.layers * shapes.width * rows * (2 if guided else 1) * steps
    sound = CODEC_ARRAYS * rows * shapes.audio_channels * round(seconds * 32_000) * filters
    return BYTES * (cache + sound)
