"""Everything about a run that can be checked before an actor starts. What fails here costs seconds, not minutes.

First what files and folders say of themselves (no torch is loaded), then the models as the actors will load them, so
that weights of other shapes or with non-finite values are found here and not in an actor.
"""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace

from cluster.session import joins_cluster
from cluster.working_copy import local_copy
from codec.musicgen_folder import is_musicgen_folder
from configs.errors import UserError
from configs.paths import PROJECT_ROOT
from configs.prompts import load_prompts
from configs.schema import CodecConfig, Config
from learner.memory import check_memory, machine_bytes, memory_need
from learner.model_folder import MUSICGEN, VOCABULARY, ModelFolder, MusicGenModelFolder, open_model_folder
from learner.optimizer_states import MOMENT_BYTES, check_optimizer_states
from learner.run_folder import RunFolder, nearest_existing
from rewards.checkpoint import check_checkpoint, version_of
from rewards.registry import check_extra, check_rewards, extra_model, find_target, local_checkpoint

PREFERENCE = "preference"  # the reward, and the kind of its checkpoint
POLICY_KINDS = ("tiny_musiclm",)
CODEC_KINDS = ("magnitude_codec", "encodec")
ENCODEC_RATE_HZ, ENCODEC_ENTRIES, ENCODEC_KBPS_PER_LEVEL = 75.0, 1024, 0.75
ENCODEC_48_RATE_HZ = 150 * 48_000 / 47_520  # segments of 150 frames start every 0.99 s
MEL_RATE_HZ = 50.0  # spectra a second of codec.log_mel, which the magnitude codec folds into frames

BYTES_PER_CELL = 2 + 4  # codes uint16, log-probability float32
BYTES_PER_ROW = 1_000  # prompt, scores, versions, Arrow's own
NETWORKS = 2  # policy and value network
SPARE_BYTES = 200_000_000  # samples, evaluation, report, and air
LARGEST_LOADED_BYTES = 1_000_000_000  # a larger policy is loaded by its actors only
LARGEST_GUESSED_ROWS = 10**12


def preflight(config: Config) -> list[str]:
    """Checks a run -> lines that a person may want to read before it starts.

    Raises UserError for the first thing found wrong: one line with the field, what it got and what it allows.
    """
    check_folder(config)
    check_prompts(config)
    policy, codec = check_models(config)
    check_rewards_and_judges(config)
    check_guard(config)
    check_port(config.metrics.port)
    notes = [policy.note, _memory_note(config, policy)] if isinstance(policy, MusicGenModelFolder) else []
    notes.append(check_disk(config, policy))
    load_models(config, policy, codec)
    return notes


def adopt_codec(config: Config) -> None:
    """A MusicGen brings its own codec: where nobody chose another than the embedded one, the run takes it."""
    embedded = CodecConfig().checkpoint
    untouched = config.codec.checkpoint in (embedded, str(PROJECT_ROOT / embedded))
    if not (untouched and config.policy.checkpoint):
        return
    if is_musicgen_folder(local_copy(config.policy.checkpoint, "policy.checkpoint")):
        config.codec.checkpoint = config.policy.checkpoint


def _memory_note(config: Config, policy: MusicGenModelFolder) -> str:
    """What the run will need. Raises UserError where it stays on this machine and does not fit."""
    need = memory_need(config, policy.shapes, policy.filters)
    return str(need) if joins_cluster() else check_memory(need, machine_bytes())


def check_folder(config: Config) -> None:
    """A new run's folder is free; an earlier run's has something to go on from."""
    if config.run.resume:
        RunFolder(config.run.resume, "run.resume").check_resumable(config.storage)
    elif config.run.dir:
        RunFolder(config.run.dir).check_new(config.storage)


def check_prompts(config: Config) -> None:
    prompts = config.prompts
    load_prompts(prompts.train, prompts.column, prompts.max_chars, "prompts.train")
    load_prompts(prompts.eval, prompts.column, prompts.max_chars, "prompts.eval")


def check_models(config: Config) -> tuple[ModelFolder, ModelFolder]:
    """Policy, reference and codec are whole and speak of the same tokens -> the folders of policy and codec."""
    if not config.policy.checkpoint:
        raise UserError(
            "policy.checkpoint: got '', allowed the folder of a policy: a MusicGen's, or that of an earlier run, "
            "runs/NAME/checkpoints/step_300/policy"
        )
    policy = open_model_folder(config.policy.checkpoint, "policy.checkpoint", POLICY_KINDS, (VOCABULARY,))
    reference_path = config.policy.reference or config.policy.checkpoint
    reference = open_model_folder(reference_path, "policy.reference", POLICY_KINDS, (VOCABULARY,))
    codec = open_model_folder(config.codec.checkpoint, "codec.checkpoint", CODEC_KINDS)
    _check_streams(policy, reference, codec)
    if config.learner.lora_rank and policy.kind != MUSICGEN:
        raise UserError(f"learner.lora_rank: got {config.learner.lora_rank}, allowed 0 with a {policy.kind}")
    precision = config.actors.generator_precision
    if precision != "float32" and policy.kind != MUSICGEN:
        raise UserError(f"actors.generator_precision: got {precision}, allowed float32 with a {policy.kind}")
    check_optimizer_states(config.learner.optimizer_states, policy)
    if policy.kind != MUSICGEN:
        _check_vocabulary(policy, reference)
    _check_lengths(config, policy)
    return policy, codec


def check_rewards_and_judges(config: Config) -> None:
    """Each reward can be built: a known name or an importable target, and a whole checkpoint of its kind."""
    check_rewards(config.rewards)
    for name, reward in config.rewards.items():
        if reward.target:
            find_target(name, reward.target)
        elif extra_model(name, reward):
            try:
                check_extra(extra_model(name, reward), reward.checkpoint, reward.environment)
            except UserError as error:
                raise UserError(f"rewards.{name}: {error}") from None
        else:
            try:
                check_checkpoint(local_checkpoint(reward.checkpoint), name)
            except UserError as error:
                raise UserError(f"rewards.{name}.checkpoint: {error}") from None
    judges = config.evaluation.judges
    if judges and not local_copy(judges, "evaluation.judges").is_dir():
        raise UserError(f"evaluation.judges: got {judges!r}, allowed an existing folder, or empty for none")


def check_guard(config: Config) -> None:
    """The guarding preference model is whole, and not the one that the run trains on."""
    if not config.guard.second_preference:
        return
    field, reward = "guard.second_preference", config.rewards.get(PREFERENCE)
    directory = local_checkpoint(config.guard.second_preference)
    try:
        check_checkpoint(directory, PREFERENCE)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    if reward is None or reward.target or reward.weight == 0:
        return
    if version_of(directory) == version_of(local_checkpoint(reward.checkpoint)):
        raise UserError(
            f"{field}: got the model that rewards.{PREFERENCE} trains on, allowed one that learnt from other "
            "listeners, such as half=second of python -m rewards.train preference"
        )


def check_port(port: int) -> None:
    """Nothing listens on the exporter's port."""
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"metrics.port: got {port}, which cannot be served: {error.strerror}") from None


def check_disk(config: Config, policy: ModelFolder) -> str:
    """The disk has room for replay and checkpoints -> the estimate in words."""
    replay, checkpoints = replay_bytes(config, policy), checkpoint_bytes(config, policy)
    needed = replay + checkpoints + SPARE_BYTES
    disk = nearest_existing(RunFolder(config.run.resume or config.run.dir or "runs").path)
    free = shutil.disk_usage(disk).free
    if free < needed:
        raise UserError(
            f"run.dir: the disk of {str(disk)!r} has {_size(free)} free, needed about {_size(needed)} (replay "
            f"{_size(replay)}, checkpoints {_size(checkpoints)}); lower replay.max_bytes or run.keep_checkpoints"
        )
    return (
        f"disk: about {_size(needed)} of {_size(free)} free (replay {_size(replay)}, checkpoints {_size(checkpoints)})"
    )


def replay_bytes(config: Config, policy: ModelFolder) -> int:
    """What the replay store can come to hold: every row of the run, at most replay.max_bytes."""
    cells = len(policy.config["streams"]) * round(config.sampling.seconds * policy.config["frame_rate_hz"])
    rows = min(config.learner.steps * config.learner.batch_size, LARGEST_GUESSED_ROWS)
    return min(rows * (cells * BYTES_PER_CELL + BYTES_PER_ROW), config.replay.max_bytes)


def checkpoint_bytes(config: Config, policy: ModelFolder) -> int:
    """Step 0, the kept ones, those that the guard may propose, and the one being written, in 32 bits."""
    written = config.learner.steps // config.run.checkpoint_every + 1
    kept = config.run.keep_checkpoints + config.guard.consecutive + 1
    each = NETWORKS * (4 + 2 * MOMENT_BYTES[config.learner.optimizer_states])  # a weight and Adam's two moments
    if config.learner.lora_rank:
        each = 4  # adapters are few beside the merged policy
    return (min(kept, written) + 2) * (round(policy.parameters * each) + policy.carried_bytes)


def load_models(config: Config, policy: ModelFolder, codec: ModelFolder) -> None:
    """Loads every shipped model once, as its actor will. Raises what the loaders raise."""
    from codec.checkpoint import load_codec
    from evaluation.judges import load_judges
    from policy.checkpoint import load_policy
    from rewards.preference_personal import load_preference
    from rewards.registry import build_rewards

    if policy.parameters * 4 <= LARGEST_LOADED_BYTES:
        load_policy(policy.path)
        if config.policy.reference not in ("", config.policy.checkpoint):
            load_policy(config.policy.reference)
    load_codec(codec.path)
    # Models of the field are large and may live in an environment of their own: their scorer loads them
    built_in = {
        name: reward for name, reward in config.rewards.items() if not reward.target and not extra_model(name, reward)
    }
    for name, reward in built_in.items():
        build_rewards({name: replace(reward, weight=1.0)})
    if config.evaluation.judges:
        load_judges(config.evaluation.judges)
    if config.guard.second_preference:
        load_preference(local_checkpoint(config.guard.second_preference))


def _check_streams(policy: ModelFolder, reference: ModelFolder, codec: ModelFolder) -> None:
    if policy.kind != reference.kind:
        got = f"{reference.kind} in {str(reference.path)!r}"
        raise UserError(f"policy.reference: got a {got}, allowed a {policy.kind}, as policy.checkpoint is")
    own, anchor = _streams(policy), _streams(reference)
    if own != anchor:
        raise UserError(
            f"policy.reference: got streams {_named(anchor)} in {str(reference.path)!r}, allowed those of "
            f"policy.checkpoint, {_named(own)}"
        )
    rate_hz, sizes = _codec_facts(codec)
    acoustic = [size for kind, size in own if kind == "acoustic"]
    if len(acoustic) > len(sizes) or acoustic != sizes[: len(acoustic)]:
        raise UserError(
            f"codec.checkpoint: got codebooks {sizes} in {str(codec.path)!r}, allowed {acoustic}, those of "
            "policy.checkpoint"
        )
    if rate_hz != policy.config["frame_rate_hz"]:
        raise UserError(
            f"codec.checkpoint: got {rate_hz:g} frames a second in {str(codec.path)!r}, allowed "
            f"{policy.config['frame_rate_hz']:g}, those of policy.checkpoint"
        )


def _check_vocabulary(policy: ModelFolder, reference: ModelFolder) -> None:
    if (policy.path / VOCABULARY).read_bytes() != (reference.path / VOCABULARY).read_bytes():
        raise UserError(
            f"policy.reference: got another {VOCABULARY} in {str(reference.path)!r}, allowed that of policy.checkpoint"
        )


def _check_lengths(config: Config, policy: ModelFolder) -> None:
    rate_hz, frames = policy.config["frame_rate_hz"], policy.config.get("max_frames")
    for field, seconds in (("sampling", config.sampling.seconds), ("evaluation", config.evaluation.seconds)):
        if frames is not None and round(seconds * rate_hz) > frames:
            raise UserError(
                f"{field}.seconds: got {seconds:g}, allowed at most {frames / rate_hz:g}, the policy's longest"
            )
        if round(seconds * rate_hz) < 1:
            raise UserError(f"{field}.seconds: got {seconds:g}, allowed at least {1 / rate_hz:g}, one frame")


def _streams(policy: ModelFolder) -> list[tuple[str, int]]:
    try:
        streams = [(str(stream["kind"]), int(stream["size"])) for stream in policy.config["streams"]]
        float(policy.config["frame_rate_hz"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{policy.field}: {policy.path / 'config.json'} lacks streams or frame_rate_hz") from None
    return streams


def _named(streams: list[tuple[str, int]]) -> str:
    return " + ".join(f"{kind} {size}" for kind, size in streams)


def _codec_facts(codec: ModelFolder) -> tuple[float, list[int]]:
    """Frames a second and entries of each codebook."""
    if isinstance(codec, MusicGenModelFolder):
        return codec.shapes.frame_rate_hz, [codec.shapes.entries] * codec.shapes.codebooks
    try:
        if codec.kind == "encodec":
            wide = codec.config.get("model") == "encodec_48khz" or codec.config.get("sampling_rate") == 48_000
            rate_hz, kbps = (ENCODEC_48_RATE_HZ if wide else ENCODEC_RATE_HZ), ENCODEC_KBPS_PER_LEVEL * (1 + wide)
            most = max(codec.config.get("target_bandwidths", [6.0]))  # transformers' files name all, ours the one
            return rate_hz, [ENCODEC_ENTRIES] * round(float(codec.config.get("bandwidth_kbps", most)) / kbps)
        rate_hz = MEL_RATE_HZ / int(codec.config["spectra_per_frame"])
        return rate_hz, [int(codec.config["entries"])] * int(codec.config["levels"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"{codec.field}: {codec.path / 'config.json'} lacks the codec's shapes") from None


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
