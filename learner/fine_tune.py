"""Supervised fine-tuning of a policy on audio of one's own.

    python -m learner.pretrain policy.checkpoint=DIR data=DIR|MANIFEST.jsonl [key=value ...]

`data` is a folder of audio with captions, or an audiocraft manifest (where captions come from: codec/audio_list.py).
`out` then holds: policy/ (a policy as any other), training.json, policy/curve.jsonl, samples/ of held-out captions
before and after, problems.txt, tokens.npz. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from cluster.errors import UserError
from cluster.storage import write_text_atomic
from codec.audio import write_wav
from codec.audio_list import Problem, list_audio
from codec.checkpoint import load_codec
from codec.musicgen_folder import is_musicgen_folder
from codec.port import Codec
from configs.paths import existing_asset
from configs.setting import setting
from evaluation.evaluate import clip_seed, longest_clip_s, sample_clips
from learner.audio_material import Sequences, content_key, encode_files, encoder_of, held_out, saved_sequences
from learner.supervised import SupervisedSettings, SupervisedTraining, bits_per_token
from policy.checkpoint import load_policy, policy_version
from policy.port import SamplingSettings
from policy.samplers import sampler_of

SHOWN_PROBLEMS = 20
VALID_ROWS = 256
TINY = "assets/tiny"
Say = Callable[[str], None]


@dataclass(frozen=True)
class FineTuneSettings(SupervisedSettings):
    """`python -m learner.pretrain policy.checkpoint=DIR data=DIR` key=value."""

    steps: int = 500
    batch_size: int = 8
    learning_rate: float = 1e-4
    warmup_steps: int = 20
    weight_decay: float = 0.01
    dropout: float = 0.0
    report_every: int = 10
    policy: str = ""  # policy.checkpoint: where to start
    codec: str = ""  # codec.checkpoint; empty: of a MusicGen its own, else assets/tiny/codec
    semantic: str = f"{TINY}/semantic"  # for policies with a semantic stream
    data: str = ""
    captions: str = ""  # CSV, JSON, JSONL or Parquet; empty: what lies beside the audio
    out: str = "build/finetuned"
    seconds: float = setting(4.0, "of a sequence", above=0, at_most=120)
    valid: float = setting(0.1, "share that is held out", above=0, at_most=0.5)
    samples: int = setting(4, "clips of held-out captions, before and after", at_least=0, at_most=1000)
    guidance_scale: float = setting(1.0, "of the samples", at_least=0, at_most=20)
    threads: int = 2


def fine_tune(settings: FineTuneSettings, say: Say) -> dict[str, Any]:
    """Trains to the last step -> what training.json holds. Raises UserError, RunFailed."""
    for name in ("policy", "data"):
        if not getattr(settings, name):
            key = "policy.checkpoint" if name == "policy" else name
            raise UserError(f"{key}: got nothing, allowed {'the folder of a policy' if name == 'policy' else 'audio'}")
    torch.set_num_threads(settings.threads)
    start, out = existing_asset(settings.policy), Path(settings.out)
    listed = list_audio(existing_asset(settings.data), settings.captions)
    policy, codec = load_policy(start), load_codec(_codec_folder(settings, start))
    frames = _frames(policy, codec, settings.seconds)
    encode = encoder_of(codec, [stream.kind for stream in policy.streams], existing_asset(settings.semantic))
    key = content_key(listed, codec.version, settings.seconds, [stream.kind for stream in policy.streams])
    sequences = saved_sequences(
        out / "tokens.npz", key, lambda: encode_files(listed, codec, encode, settings.seconds, frames, say)
    )
    _tell(sequences.problems, out, say)
    _same_start(out, {"policy": policy_version(start), "tokens": key})
    return _train(policy, codec, sequences, settings, out, say)


def _train(
    policy: Any, codec: Codec, sequences: Sequences, settings: FineTuneSettings, out: Path, say: Say
) -> dict[str, Any]:
    learnt, valid = held_out(sequences, settings.valid, settings.seed)
    train, unseen = sequences.material(learnt), sequences.material(valid[:VALID_ROWS])
    say(f"data: {len(train)} sequences of {settings.seconds:g} s to learn from, {len(valid)} held out")
    plain = {field.name: getattr(settings, field.name) for field in fields(SupervisedSettings)}
    plain |= {"crop_least": train.codes.shape[2], "crop_most": train.codes.shape[2]}
    training = SupervisedTraining(policy, train, unseen, out / "policy", SupervisedSettings(**plain), say)
    before = _before(training, codec, settings, out, say)
    facts = training.run()
    after = float(bits_per_token(policy, unseen.codes, unseen.captions).mean())
    say(f"policy: held-out likelihood {before:.3f} -> {after:.3f} bits/token")
    _samples(policy, codec, unseen.captions, settings, out / "samples" / f"step_{settings.steps}", say)
    facts |= {"valid_bits_before": round(before, 4), "valid_bits_after": round(after, 4)}
    facts |= {"files": len(sequences.files), "files_not_used": len(sequences.problems), "held_out": len(valid)}
    write_text_atomic(out / "training.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _before(training: SupervisedTraining, codec: Codec, settings: FineTuneSettings, out: Path, say: Say) -> float:
    """The start's held-out likelihood, measured once, and its samples; kept for a command that goes on."""
    path = out / "before.json"
    if not path.is_file():
        bits = float(bits_per_token(training.policy, training.valid.codes, training.valid.captions).mean())
        _samples(training.policy, codec, training.valid.captions, settings, out / "samples" / "step_0", say)
        write_text_atomic(path, json.dumps({"valid_bits": bits}) + "\n")
    return float(json.loads(path.read_text(encoding="utf-8"))["valid_bits"])


def _samples(policy: Any, codec: Codec, captions: Any, settings: FineTuneSettings, folder: Path, say: Say) -> None:
    """Clips of the first different captions, the same noise each time, with captions.json beside them."""
    prompts = list(dict.fromkeys(captions))[: settings.samples]
    if not prompts:
        return
    work = [(row, prompt, clip_seed(settings.seed, row)) for row, prompt in enumerate(prompts)]
    sampling = SamplingSettings(guidance_scale=settings.guidance_scale)
    clips = sample_clips(policy, sampler_of(policy), codec, work, settings.seconds, sampling)
    names = {}
    for row, pcm in enumerate(clips.pcm):
        names[f"{row:03d}.wav"] = prompts[row]
        write_wav(folder / f"{row:03d}.wav", pcm, clips.sample_rate_hz)
    write_text_atomic(folder / "captions.json", json.dumps(names, indent=1, ensure_ascii=False) + "\n")
    say(f"samples: {len(names)} clips in {folder}")


def _codec_folder(settings: FineTuneSettings, start: str) -> str:
    if settings.codec:
        return existing_asset(settings.codec)
    return start if is_musicgen_folder(Path(start)) else existing_asset(f"{TINY}/codec")


def _frames(policy: Any, codec: Codec, seconds: float) -> int:
    """Frames of a sequence. Raises UserError where codec and policy do not fit, or the policy plays no clip so long."""
    if abs(codec.frame_rate_hz - policy.frame_rate_hz) > 1e-6:
        raise UserError(
            f"codec.checkpoint: got {codec.frame_rate_hz:g} frames a second, allowed the policy's "
            f"{policy.frame_rate_hz:g}"
        )
    acoustic = sum(stream.kind == "acoustic" for stream in policy.streams)
    if acoustic > len(codec.codebook_sizes):
        raise UserError(f"codec.checkpoint: got {len(codec.codebook_sizes)} codebooks, allowed the policy's {acoustic}")
    if seconds > longest_clip_s(policy):
        raise UserError(
            f"seconds: got {seconds:g}, allowed up to {longest_clip_s(policy):g}, the policy's longest clip"
        )
    return max(1, int(seconds * policy.frame_rate_hz))


def _same_start(out: Path, facts: dict[str, str]) -> None:
    """Raises UserError where `out` was begun from another policy or other data."""
    path = out / "start.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != facts:
        raise UserError(f"out: got {out}, begun from another policy or other data, allowed a new folder")
    write_text_atomic(path, json.dumps(facts) + "\n")


def _tell(problems: tuple[Problem, ...], out: Path, say: Say) -> None:
    write_text_atomic(out / "problems.txt", "".join(f"{problem}\n" for problem in problems))
    for problem in problems[:SHOWN_PROBLEMS]:
        say(f"data: not used: {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        say(f"data: not used: {len(problems) - SHOWN_PROBLEMS} more, see {out / 'problems.txt'}")
