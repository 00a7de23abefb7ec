"""The hidden utility: its formula, its bounds, its groups, and the shipped parameters."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from simulated_parts import notes, random_heard

from cluster.errors import UserError
from feedback.simulated_measures import MEASURES
from feedback.simulated_parameters import DEFAULT_FILE, PARTS, load_parameters
from feedback.simulated_utility import Heard, SimulatedUtility, group_utility, hear, population_utility, taste
from rewards.port import ClipBatch, RewardModel

PARAMETERS = load_parameters()


def heard(adherence: float, quality: float, measures: np.ndarray) -> Heard:
    return Heard(np.array([adherence]), np.array([quality]), measures[None], np.zeros(1))


def test_taste_by_hand():
    measures = np.array([[1.0, 0.0]])
    found = taste(measures, np.array([1.0, 2.0]), np.array([0.5, 2.0]), np.array([3.0, 1.0]))
    assert np.allclose(found, 0.75 * 1.0 + 0.25 * np.exp(-0.5))


def test_utility_by_hand():
    group = PARAMETERS.groups[0]
    clip = heard(0.9, 0.5, group.centre)  # every bump at its top: taste 1
    means = {name: PARAMETERS.parts[name] for name in PARTS}
    expected = sum(
        weight * (value - means[name].mean) / means[name].sd
        for name, weight, value in zip(PARTS, PARAMETERS.weights, (0.9, 0.5, 1.0), strict=True)
    )
    assert np.isclose(group_utility(clip, group, PARAMETERS)[0], expected)


def test_population_is_the_mean_over_groups():
    clips = random_heard(PARAMETERS, 20, 0)
    by_group = [group_utility(clips, group, PARAMETERS) for group in PARAMETERS.groups]
    expected = sum(group.share * worth for group, worth in zip(PARAMETERS.groups, by_group, strict=True))
    assert np.allclose(population_utility(clips, PARAMETERS), expected)


def test_nothing_is_worth_more_than_a_real_clip_can_be():
    """Whatever the measures, the utility stays between its value with all parts 0 and with all parts 1."""
    rng = np.random.default_rng(0)
    wild = Heard(rng.random(500), rng.random(500), rng.normal(0, 50, (500, len(MEASURES))), np.zeros(500))
    limits = [
        sum(
            w * (end - PARAMETERS.parts[n].mean) / PARAMETERS.parts[n].sd
            for n, w in zip(PARTS, PARAMETERS.weights, strict=True)
        )
        for end in (0.0, 1.0)
    ]
    worth = population_utility(wild, PARAMETERS)
    assert limits[0] <= worth.min() and worth.max() <= limits[1]


def test_one_group_has_the_opposite_taste():
    clips = random_heard(PARAMETERS, 2000, 1)
    tastes = {g.name: taste(clips.measures, g.centre, g.width, g.weight) for g in PARAMETERS.groups}
    assert len(tastes) >= 3
    assert np.corrcoef(tastes["lively"], tastes["mellow"])[0, 1] < -0.3
    assert np.corrcoef(tastes["lively"], tastes["steady"])[0, 1] > 0.3


def test_the_prompt_and_the_damage_are_heard():
    """On a shipped clip of the test set: its own caption beats a wrong one, the clean clip beats a noisy one."""
    import torch

    from codec.log_mel import log_mel
    from evaluation.test_set import load_test_set
    from feedback.simulated_ear import SimulatedEar
    from world.degradations import degrade

    clips = load_test_set("assets/tiny/test_clips")
    ear = SimulatedEar.load(PARAMETERS.ear)
    pcm = clips.pcm[:12]
    captions = list(clips.captions[:12])
    clean = hear(ear, log_mel(pcm).numpy(), captions)
    others = hear(ear, log_mel(pcm).numpy(), captions[6:] + captions[:6])
    noisy, _, _ = degrade(pcm, np.random.default_rng(0), ("noise",), torch.full((12,), 0.8))
    spoilt = hear(ear, log_mel(noisy).numpy(), captions)
    assert clean.adherence.mean() > others.adherence.mean() + 0.2
    assert clean.quality.mean() > spoilt.quality.mean() + 0.3


def test_behaves_like_a_reward_model():
    mel = np.concatenate([notes([0.5, 1.0], [20, 22]), notes([0.5], [30])])
    mel[1, 3, 7] = np.nan
    model, lively = SimulatedUtility(), SimulatedUtility(group="lively")
    scores = model.score(ClipBatch(("a slow piano tune", "a flute"), 16_000, log_mel=mel))
    assert isinstance(model, RewardModel) and scores.dtype == np.float32
    assert np.isfinite(scores[0]) and np.isnan(scores[1])
    assert lively.name == "simulated_utility_lively"
    assert lively.score(ClipBatch(("a slow piano tune",), 16_000, log_mel=mel[:1]))[0] != scores[0]
    with pytest.raises(ValueError, match="allowed lively, steady, mellow"):
        SimulatedUtility(group="nobody")


def edited(tmp_path, edit) -> str:
    entries = yaml.safe_load(DEFAULT_FILE.read_text())
    edit(entries)
    path = tmp_path / "listeners.yaml"
    path.write_text(yaml.safe_dump(entries))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda e: e["groups"]["lively"].update(share=0.9), "shares must sum to one"),
        (lambda e: e["groups"]["lively"]["taste"].pop("gaps"), "group lively"),
        (lambda e: e["weights"].update(hue=1.0), "weights of"),
        (lambda e: e.pop("noise"), "missing entry .*noise"),
        (lambda e: e["raters"].update(cuts=[0, 1, 1, 2]), "four rising numbers"),
        (lambda e: e["spam"].update(share=1.5), r"spam.share: must lie in \[0, 1\]"),
        (lambda e: e["parts"]["taste"].update(sd=0.0), "deviations must be positive"),
        (lambda e: e["listeners"].update(count="many"), "wrong or missing entry"),
    ],
)
def test_wrong_parameters_are_refused(edit, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        load_parameters(edited(tmp_path, edit))


def test_unknown_agreement_and_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="agreement: got 65, allowed 60 or 75"):
        PARAMETERS.noise_of(65)
    with pytest.raises(UserError, match="cannot be read"):
        load_parameters(tmp_path / "nowhere.yaml")
