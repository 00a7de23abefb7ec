"""From votes to what is learned from and compared by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from evaluation.rating_table import read_ratings
from feedback.preference_log import PreferenceLog
from feedback.rating_export import export_ratings
from feedback.records import Choice, Consent, ListenerKind, Played
from feedback.training_table import codec_encoder, export_pairs
from rewards.preference_pairs import SCHEMA
from tests.feedback.log_parts import RATE_HZ, clip_of, fill, flac_of, listener_of, pair_of, rating_of, vote_of

TINY = MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=3, entries=16)


def exported(log: PreferenceLog, path: Path, **options: object) -> tuple[list[dict], dict[str, str]]:
    report = export_pairs(log, path, **options)  # type: ignore[arg-type]
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA) and len(table) == report.taken
    return table.to_pylist(), dict(report.left_out)


def test_every_vote_is_a_row_or_a_reason(log: PreferenceLog, tmp_path: Path) -> None:
    fill(log, pairs=2, clips=4, listeners=("ann", "shy", "leaver"))
    log.add_listener(listener_of("sim", kind=ListenerKind.SIMULATED, group="lively"))
    log.set_consent("shy", Consent.COUNT)
    log.add_pair(pair_of(5, 4, study="blind"))
    deaf = vote_of(1, played_b=Played(((0.0, 0.1),)))
    log.record_votes([vote_of(0), deaf, vote_of(0, "shy"), vote_of(0, "leaver"), vote_of(5, "sim", Choice.TIE)])
    log.delete_listener("leaver")

    found, left_out = exported(log, tmp_path / "pairs.parquet", min_heard_s=0.2)

    assert left_out == {
        "deletion 1": "deleted: 1 votes of one listener",
        "vote vote-ann-1": "not heard long enough: 0.45 s and 0.1 s, asked for 0.2 s",
        "vote vote-shy-0": "consent: count, asked for train",
    }
    first, second = found
    assert np.array_equal(first.pop("codes_a"), clip_of(0).codes) and np.array_equal(
        first.pop("codes_b"), clip_of(1).codes
    )
    assert first.pop("heard_a_s") == pytest.approx(0.45) and first.pop("heard_b_s") == pytest.approx(0.3)
    assert first == {
        "vote_id": "vote-ann-0",
        "prompt": "prompt 0",
        "choice": "a",
        "listener": "ann",
        "listener_kind": "person",
        "group": "",
        "policy_a": "policy_0",
        "policy_b": "policy_1",
        "seed_a": 0,
        "seed_b": 1,
        "seconds": 0.5,
        "voted_at": vote_of(0).voted_at,
    }
    assert (second["listener_kind"], second["group"], second["choice"]) == ("simulated", "lively", "tie")
    assert len(exported(log, tmp_path / "all.parquet", consent=Consent.COUNT)[0]) == 4
    assert len(exported(log, tmp_path / "blind.parquet", study="blind")[0]) == 1
    only, reasons = exported(log, tmp_path / "people.parquet", kind=ListenerKind.PERSON, consent=Consent.COUNT)
    assert {row["listener"] for row in only} == {"ann", "shy"}
    assert reasons["vote vote-sim-5"] == "listener kind: simulated, asked for person"


def test_clips_without_codes_are_encoded_or_left_out(sqlite_log: PreferenceLog, tmp_path: Path) -> None:
    log = sqlite_log
    log.add_listener(listener_of())
    for number in range(4):
        log.add_clip(clip_of(number, codes=None if number else clip_of(0).codes[:3]), flac_of(number))
    log.add_pairs(pair_of(number, 4) for number in range(2))
    log.record_votes([vote_of(0), vote_of(1)])
    found, left_out = exported(log, tmp_path / "none.parquet")
    assert found == [] and left_out["vote vote-ann-0"] == "no codes: clip b came without, and no codec was given"

    torch.manual_seed(0)
    codec = MagnitudeCodec(TINY).eval()
    log.audio_path(clip_of(3).clip_id).unlink()
    found, left_out = exported(log, tmp_path / "encoded.parquet", encode=codec_encoder(codec))
    assert list(left_out) == ["vote vote-ann-1"] and left_out["vote vote-ann-1"].startswith("missing audio: ")
    assert np.array_equal(found[0]["codes_a"], clip_of(0).codes[:3])  # what came with codes keeps them
    from codec.audio import read_audio

    with torch.inference_mode():
        pcm, _ = read_audio(log.audio_path(clip_of(1).clip_id))
        assert np.array_equal(found[0]["codes_b"], codec.encode(torch.from_numpy(pcm)[None])[0].numpy())

    both = codec_encoder(codec, lambda pcm: torch.full((1, 1, 11), 7))
    found, left_out = exported(log, tmp_path / "semantic.parquet", encode=both)
    assert left_out["vote vote-ann-0"] == "unknown codes: 3 streams against 4"


def test_the_encoder_resamples_and_mixes() -> None:
    torch.manual_seed(0)
    codec = MagnitudeCodec(TINY).eval()
    times_s = np.arange(2 * RATE_HZ) / (2 * RATE_HZ)
    tone = (0.3 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)
    codes = codec_encoder(codec, lambda pcm: torch.arange(25)[None, None])(np.stack([tone, tone]), 2 * RATE_HZ)
    assert codes.dtype == np.uint16 and codes.shape == (4, 25) and list(codes[0]) == list(range(25))


def test_ratings_fit_what_compares_systems(log: PreferenceLog, tmp_path: Path) -> None:
    fill(log, pairs=1, clips=4, listeners=("ann", "bob"))
    log.add_pair(pair_of(5, 4, study="blind"))
    log.add_pair(pair_of(6, 4, study="blind", clip_b=clip_of(2).clip_id))
    log.record_ratings([rating_of(0), rating_of(5), rating_of(6), rating_of(5, "bob", played_a=Played())])
    report = export_ratings(log, tmp_path / "ratings.parquet", "blind", min_heard_s=0.2)
    table = read_ratings(tmp_path / "ratings.parquet").to_pylist()
    assert table == [
        {
            "rating_id": "rating-ann-5",
            "prompt": "prompt 5",
            "system_a": "policy_0",
            "system_b": "policy_1",
            "rater": "ann",
            "rater_kind": "person",
            "score_a": 4,
            "score_b": 2,
        }
    ]
    assert dict(report.left_out) == {
        "rating rating-ann-6": "one system: both clips are of policy_0",
        "rating rating-bob-5": "not heard long enough: 0 s and 0.5 s",
    }
