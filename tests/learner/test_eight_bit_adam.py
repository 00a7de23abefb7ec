"""Moments of 8 bits: close to Adam, a quarter of the bytes, resumed bit for bit, refused where they cannot be."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cluster.errors import RunFailed, UserError
from configs.load import load_config
from learner import optimizer_states
from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.eight_bit_adam import fits
from learner.learner import Learner
from learner.main import main
from learner.optimiser import Optimiser
from learner.preflight import check_models
from policy.checkpoint import load_policy
from policy.musicgen.random_checkpoint import RandomShapes, write_random
from tests.learner.tiny_learner import SETTINGS, batch, config

if find_spec("bitsandbytes") is None:
    pytest.skip("without the extra states: pip install 'musicrl-on-ray[states]'", allow_module_level=True)
STATES = ("float32", "8bit")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_random(tmp_path_factory.mktemp("m") / "musicgen", RandomShapes(width=256, layers=1, entries=16))


def learner_of(directory: Path, states: str, **changes: Any) -> Learner:
    settings = config(**{"learning_rate": 1e-4, "optimizer_states": states, **changes})
    return Learner(load_policy(directory), load_policy(directory), settings, SETTINGS, 100)


def train(subject: Learner, directory: Path, steps: int) -> list[dict[str, float]]:
    behaviour = load_policy(directory)
    return [subject.step(batch(behaviour, seed=subject.version)) for _ in range(steps)]


def flat(network: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in network.parameters() if tensor.requires_grad])


def test_the_path_stays_close_to_adams(directory: Path) -> None:
    """The first update is Adam's own, moments being rounded after it; then the paths part by a few per cent."""
    subjects = {states: learner_of(directory, states) for states in STATES}
    start = {name: flat(getattr(subjects["8bit"], name)) for name in ("policy", "value")}
    for steps, least, most in ((1, 0.0, 1e-5), (9, 0.01, 0.1)):
        rows = [train(subject, directory, steps)[-1] for subject in subjects.values()]
        for name, before in start.items():
            adam, short = (flat(getattr(subject, name)) - before for subject in subjects.values())
            apart = float((short - adam).norm() / adam.norm())
            assert least <= apart < most, (steps, name, apart)
            assert short.abs().max() < 1.5 * adam.abs().max()
        assert rows[1]["value_loss"] == pytest.approx(rows[0]["value_loss"], rel=1e-4)
        assert rows[1]["learning_rate"] == rows[0]["learning_rate"]


@pytest.mark.parametrize("states", STATES)
def test_a_quadratic_is_solved(states: str) -> None:
    """sum of (weight - goal)^2 h / 2, with curvatures h over four decades: what is left of it after 200 steps."""
    torch.manual_seed(0)
    network = nn.Linear(256, 32, bias=False)
    goal, curvature = torch.randn(32, 256), 10 ** (4 * torch.rand(32, 256) - 2)
    optimiser = Optimiser(network, grad_clip=1e9, states=states)
    losses = []
    for step in range(200):
        loss = (curvature * (network.weight - goal).square()).sum() / 2
        losses.append(loss.item())
        network.zero_grad()
        loss.backward()
        optimiser.step(0.1 * (1 - step / 200))
    assert losses[-1] < 1e-3 * losses[0], losses[-1] / losses[0]


def test_moments_take_a_quarter_of_the_bytes(directory: Path) -> None:
    """Of rows of multiples of 256: 1 byte and 4/256 of a scale for each number of each of two moments."""
    taken: dict[str, int] = {}
    for states in STATES:
        subject = learner_of(directory, states)
        train(subject, directory, 1)
        assert subject.value_optimiser is not None
        parts = [subject.policy_optimiser.state(), subject.value_optimiser.state()]
        fitting = [moments for state in parts for moments in state.values() if fits(next(iter(_wide(moments))))]
        taken[states] = sum(tensor.nbytes for moments in fitting for tensor in moments.values() if tensor.ndim)
        numbers = sum(next(iter(_wide(moments))).numel() for moments in fitting)
    assert taken["float32"] == 8 * numbers
    assert taken["8bit"] == numbers * 2 * 260 // 256
    assert taken["8bit"] / taken["float32"] == 0.25390625
    everything = [subject.policy_optimiser.state(), subject.value_optimiser.state()]
    long = sum(tensor.nbytes for state in everything for moments in state.values() for tensor in moments.values())
    assert long < 1.1 * taken["8bit"]  # what stays in 32 bits is little


def _wide(moments: dict[str, Tensor]) -> list[Tensor]:
    return [tensor for key, tensor in moments.items() if key in ("exp_avg", "exp_avg_codes")]


def test_rows_alone_decide_what_is_short() -> None:
    shapes = ((16, 256), (4096,), (2, 2048), (15, 256), (64, 192), (256, 16), (4095,))
    assert [fits(torch.empty(shape)) for shape in shapes] == [True, False, True, False, False, False, False]


def test_a_checkpoint_goes_on_bit_for_bit(directory: Path, tmp_path: Path) -> None:
    whole = learner_of(directory, "8bit", lr_schedule="linear")
    train(whole, directory, 2)
    path = save_checkpoint(tmp_path, 2, whole, {"cursor": 3}, {})
    name = "policy|trunk.layers.0.hidden.weight|exp_avg"
    with safe_open(path / "optimisers.safetensors", framework="pt") as stored:
        codes, scale = (stored.get_tensor(f"{name}_{part}") for part in ("codes", "scale"))
    assert codes.dtype == torch.uint8 and codes.shape == (1024, 256)
    assert scale.dtype == torch.float32 and scale.shape == (1024, 1) and (scale > 0).any()
    again = learner_of(directory, "8bit", lr_schedule="linear")
    assert load_checkpoint(path, again) == {"cursor": 3}
    assert train(whole, directory, 3) == train(again, directory, 3)
    assert torch.equal(flat(whole.policy), flat(again.policy))
    assert whole.value is not None and again.value is not None
    assert torch.equal(flat(whole.value), flat(again.value))
    states = [subject.policy_optimiser.state() for subject in (whole, again)]
    assert all(torch.equal(states[0][key][part], states[1][key][part]) for key in states[0] for part in states[0][key])


@pytest.mark.parametrize(("written", "bits"), [("float32", 8), ("8bit", 32)])
def test_moments_of_the_other_kind_are_refused(directory: Path, tmp_path: Path, written: str, bits: int) -> None:
    subject = learner_of(directory, written)
    train(subject, directory, 1)
    path = save_checkpoint(tmp_path, 1, subject, {}, {})
    other = learner_of(directory, next(states for states in STATES if states != written))
    with pytest.raises(RunFailed, match=rf"optimiser: .* has no moments of {bits} bits"):
        load_checkpoint(path, other)


def test_what_cannot_be_is_refused_in_one_line(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = write_random(tmp_path / "narrow", RandomShapes(width=64))

    def refused(*words: str) -> str:
        with pytest.raises(UserError) as caught:
            check_models(load_config(["learner.optimizer_states=8bit", *words]))
        return str(caught.value)

    def of(folder: Path) -> tuple[str, str]:
        return f"policy.checkpoint={folder}", f"codec.checkpoint={folder}"

    check_models(load_config(["learner.optimizer_states=8bit", *of(directory)]))
    assert refused() == "learner.optimizer_states: got 8bit, allowed float32 with a tiny_musiclm"
    assert "got 8bit, allowed float32 with a policy of width 64, no multiple of 256" in refused(*of(narrow))
    assert "got 8bit, allowed float32 with learner.lora_rank" in refused(*of(directory), "learner.lora_rank=4")
    monkeypatch.setattr(optimizer_states, "version", lambda name: "0.49.2")
    assert "got 8bit with bitsandbytes 0.49.2, which is older than 0.50; allowed float32" in refused(*of(directory))

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(optimizer_states, "version", missing)
    words = ["learner.optimizer_states=8bit", f"policy.checkpoint={directory}", f"run.dir={tmp_path / 'run'}"]
    assert main(words) == 2 and not (tmp_path / "run").exists()
    assert capsys.readouterr().err == (
        "error: learner.optimizer_states: got 8bit without bitsandbytes; allowed float32, or after: pip install "
        "'musicrl-on-ray[states]'\n"
    )
