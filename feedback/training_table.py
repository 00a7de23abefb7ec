"""From the log to the table that a preference reward model learns from (`rewards.preference_pairs.SCHEMA`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import RowMapping
from torch import Tensor

from cluster.errors import UserError
from codec.audio import mix_to_mono, read_audio, resample
from codec.port import Codec
from feedback import rows
from feedback.audio_store import FLAC
from feedback.preference_log import PreferenceLog
from feedback.records import Consent, ExchangeReport, ListenerKind
from feedback.schema import votes
from feedback.tables import write_rows
from rewards.preference_pairs import SCHEMA

# pcm [C, N] float32 in [-1, 1] and its rate in Hz -> codes [K, T] uint16
Encode = Callable[[np.ndarray, int], np.ndarray]
_REMEMBERED = 4096  # clips whose codes are kept, as a clip may be in several pairs
_RANK = list(Consent)  # each consent holds what stands before it


def export_pairs(
    log: PreferenceLog,
    path: str | Path,
    min_heard_s: float = 0.0,
    consent: Consent = Consent.TRAIN,
    study: str | None = None,
    kind: ListenerKind | None = None,
    encode: Encode | None = None,
    versions: bool = False,
) -> ExchangeReport:
    """Writes one Parquet file of all votes of one moment that may be learned from.

    min_heard_s: of each clip. consent: the least that the listener gave by now. study: None for all, "" for free use.
    kind: people, simulated listeners, or None for both. encode: makes codes for clips that came without; None leaves
    such votes out. versions: policies are called NAME@VERSION, not NAME. The report names each vote left out, and each
    deletion, of which no vote is left to name.
    """
    table = _TrainingTable(log, min_heard_s, consent, kind, encode, versions)
    with log.snapshot() as reader:
        for place, deletion in enumerate(reader.deletions()):
            if deletion.votes:
                table.report.leave_out(f"deletion {place + 1}", f"deleted: {deletion.votes} votes of one listener")
        found = (row for each in reader.answered_rows(votes, study) if (row := table.row(each)) is not None)
        table.report.take("pairs", write_rows(Path(path), SCHEMA, found))
    return table.report


def codec_encoder(codec: Codec, semantic: Callable[[Tensor], Tensor] | None = None) -> Encode:
    """Codes as the policy has them: those of `codec`, below those of `semantic` (pcm [B, 1, N] -> [B, 1, T])."""

    def encode(pcm: np.ndarray, rate_hz: int) -> np.ndarray:
        heard = resample(pcm, rate_hz, codec.sample_rate_hz)
        mono = mix_to_mono(heard)
        fitting = heard if len(heard) == codec.channels else np.repeat(mono, codec.channels, axis=0)
        with torch.inference_mode():
            streams = [codec.encode(torch.from_numpy(fitting)[None])]
            if semantic is not None:
                streams.insert(0, semantic(torch.from_numpy(mono)[None]))
        frames = min(codes.shape[-1] for codes in streams)
        together = torch.cat([codes[..., :frames] for codes in streams], dim=1)  # [1, K, T]
        return together[0].to(torch.int32).numpy().astype(np.uint16)

    return encode


class _TrainingTable:
    """Decides about each vote, and notes why not."""

    def __init__(
        self,
        log: PreferenceLog,
        min_heard_s: float,
        consent: Consent,
        kind: ListenerKind | None,
        encode: Encode | None,
        versions: bool,
    ) -> None:
        self.report = ExchangeReport()
        self._log, self._encode, self._versions = log, encode, versions
        self._min_heard_s, self._consent, self._kind = min_heard_s, consent, kind
        self._encoded = lru_cache(_REMEMBERED)(self._encode_file)

    def row(self, found: RowMapping) -> dict[str, Any] | None:
        """A row of the training table, or None with a reason in the report."""
        problem = self._refusal(found)
        codes: dict[str, np.ndarray] = {}
        if problem is None:
            try:
                codes = {side: self._codes(found, side) for side in ("a", "b")}
            except UserError as error:
                problem = str(error)
        if problem is None and len(codes["a"]) != len(codes["b"]):
            problem = f"unknown codes: {len(codes['a'])} streams against {len(codes['b'])}"
        if problem is not None:
            self.report.leave_out(f"vote {found['vote_id']}", problem)
            return None
        row = _row(found, codes)
        if self._versions:
            row |= {f"policy_{side}": f"{row[f'policy_{side}']}@{found[f'policy_version_{side}']}" for side in "ab"}
        return row

    def _refusal(self, found: RowMapping) -> str | None:
        if _RANK.index(Consent(found["consent"])) < _RANK.index(self._consent):
            return f"consent: {found['consent']}, asked for {self._consent}"
        if self._kind is not None and found["kind"] != self._kind:
            return f"listener kind: {found['kind']}, asked for {self._kind}"
        heard_a_s, heard_b_s = found["heard_a_s"], found["heard_b_s"]
        if min(heard_a_s, heard_b_s) < self._min_heard_s:
            heard = f"{heard_a_s:.3g} s and {heard_b_s:.3g} s"
            return f"not heard long enough: {heard}, asked for {self._min_heard_s:g} s"
        return None

    def _codes(self, found: RowMapping, side: str) -> np.ndarray:
        """[K, T]. Raises UserError (the reason)."""
        codes = rows.codes_of(found[f"streams_{side}"], found[f"codes_{side}"])
        if codes is not None:
            return codes
        if self._encode is None:
            raise UserError(f"no codes: clip {side} came without, and no codec was given")
        return self._encoded(found[f"audio_{side}"] or found[f"clip_id_{side}"])

    def _encode_file(self, audio_sha256: str) -> np.ndarray:
        path = self._log.audio.path(audio_sha256 + FLAC)
        try:
            pcm, rate_hz = read_audio(path)
        except UserError:
            raise UserError(f"missing audio: {path.name} cannot be read from the audio folder") from None
        assert self._encode is not None
        return self._encode(pcm, rate_hz)


def _row(found: RowMapping, codes: dict[str, np.ndarray]) -> dict[str, Any]:
    sides = {f"{name}_{side}": found[f"{name}_{side}"] for name in ("policy", "seed") for side in ("a", "b")} | {
        f"codes_{side}": list(codes[side]) for side in ("a", "b")
    }
    return sides | {
        "vote_id": found["vote_id"],
        "prompt": found["prompt"],
        "choice": found["choice"],
        "listener": found["listener_id"],
        "listener_kind": found["kind"],
        "group": found["listener_group"],
        "heard_a_s": found["heard_a_s"],
        "heard_b_s": found["heard_b_s"],
        "seconds": max(found["seconds_a"], found["seconds_b"]),
        "voted_at": rows.moment(found["answered_us"]),
    }
