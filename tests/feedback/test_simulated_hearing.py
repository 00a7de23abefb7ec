"""What a frozen trunk can hear, on votes with a planted truth."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.errors import UserError
from codec.checkpoint import save_codec
from codec.magnitude_codec import MagnitudeCodec, MagnitudeCodecConfig
from feedback import simulated_hearing
from feedback.simulated_hearing import Hearing, HearingSettings
from feedback.simulated_measures import MEASURES
from feedback.simulated_pair_parts import hidden_path
from rewards.preference_pairs import write_pairs
from tests.rewards.preference_parts import draw_clips, make_policy, table, utility

PAIRS, TASTE, FRAMES = 1500, 2.0, 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A policy, a codec, and noisy votes with the chances they were drawn from."""
    folder = tmp_path_factory.mktemp("hearing")
    torch.manual_seed(0)
    codec = MagnitudeCodec(MagnitudeCodecConfig(width=16, hidden=16, blocks=1, latent=4, levels=2, entries=16))
    codec.quantizer.codebooks.normal_(std=3.0)
    save_codec(codec.eval(), folder / "codec")
    rng = np.random.default_rng(0)
    a, b = draw_clips(rng, PAIRS, FRAMES), draw_clips(rng, PAIRS, FRAMES)
    chance = 1 / (1 + np.exp(-TASTE * (utility(a) - utility(b))))
    votes = table(a, b, np.where(rng.random(PAIRS) < chance, "a", "b"), rng, 8, "", "v")
    path = folder / "votes.parquet"
    write_pairs(path, votes)
    truth = {"takes_a": 0.9 * chance, "takes_b": 0.9 * (1 - chance), "best_known": 0.9 * np.maximum(chance, 1 - chance)}
    pq.write_table(pa.table({"vote_id": votes["vote_id"], **truth}), hidden_path(path))
    return HearingSettings(votes=str(path), policy=str(make_policy(folder / "policy")), codec=str(folder / "codec"))


def test_heads_lie_below_the_limit_and_chances_teach_more_than_votes(world):
    rows = {row["name"]: row for row in Hearing(world).table().to_pylist()}
    best, votes, chances = (
        rows[name]["value"]
        for name in ("best possible, listener unknown", "head from votes", "head from hidden chances")
    )
    assert 0.6 < votes < chances <= best + 1e-9
    assert [name for name in rows if name in MEASURES] == list(MEASURES)


def test_votes_against_the_truth_teach_the_opposite(world, tmp_path):
    """The head from the votes has seen nothing but votes: turned round, it falls below one half, the other does not."""
    pairs = pq.read_table(world.votes)
    turned = [{"a": "b", "b": "a"}[choice] for choice in pairs["choice"].to_pylist()]
    place = pairs.column_names.index("choice")
    path = tmp_path / "turned.parquet"
    write_pairs(path, pairs.set_column(place, pairs.schema.field("choice"), pa.array(turned)))
    settings = HearingSettings(
        votes=str(path), hidden=str(hidden_path(world.votes)), policy=world.policy, codec=world.codec
    )
    rows = {row["name"]: row["value"] for row in Hearing(settings).table().to_pylist()}
    assert rows["head from votes"] < 0.4 < 0.6 < rows["head from hidden chances"]


def test_a_measure_that_the_states_hold_is_read(world, monkeypatch):
    """The utility, a mean over frames of the codes, is in the mean state; noise is in no state."""
    noise = np.random.default_rng(1)

    def planted(codec, codes):
        return np.stack([utility(codes), *noise.standard_normal((len(MEASURES) - 1, len(codes)))], axis=1)

    monkeypatch.setattr(simulated_hearing, "measures_of", planted)
    monkeypatch.setattr(Hearing, "_acoustic", lambda self, pairs: pairs.codes_a)
    rows = {row["name"]: row["value"] for row in Hearing(world).table().to_pylist()}
    assert rows[MEASURES[0]] > 0.8
    assert all(abs(rows[name]) < 0.4 for name in MEASURES[1:])


def test_without_the_truth_nothing_begins(world, tmp_path):
    path = tmp_path / "votes.parquet"
    shutil.copy(world.votes, path)
    with pytest.raises(UserError, match="hidden: got"):
        simulated_hearing._run([f"votes={path}"])
    with pytest.raises(UserError, match="votes: got"):
        simulated_hearing._run(["votes=none.parquet"])
