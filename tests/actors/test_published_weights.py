"""Publications in a module: whole ones, and parts over a base."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.published import PublishedWeights
from cluster.errors import RunFailed
from cluster.weight_bus import CorruptWeights, Publication, WeightBus
from cluster.weight_transports import InProcess


@pytest.fixture
def bus() -> WeightBus:
    return WeightBus("run-a", InProcess())


def module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))


def filled(
    value: float, names: tuple[str, ...] = ("0.weight", "0.bias", "1.weight", "1.bias")
) -> dict[str, np.ndarray]:
    shapes = {name: tuple(tensor.shape) for name, tensor in module().state_dict().items()}
    return {name: np.full(shapes[name], value, np.float32) for name in names}


def held(own: torch.nn.Module) -> dict[str, float]:
    return {name: float(tensor.flatten()[-1]) for name, tensor in own.state_dict().items()}


def check_in_any_order(expected: list[tuple[Publication, dict[str, float]]]) -> None:
    """After each publication its module holds what it should, whatever came before."""
    rng = np.random.default_rng(0)
    own = module()
    weights = PublishedWeights(own)
    for publication, contents in (expected[place] for place in rng.integers(len(expected), size=40)):
        weights.load(publication)
        assert held(own) == contents


def test_parts_lie_over_their_base_whatever_came_before(bus: WeightBus) -> None:
    base = bus.publish(filled(0.0), 0)
    both = bus.publish(filled(1.0, ("0.weight", "1.bias")), 1, base=base)
    one = bus.publish(filled(2.0, ("1.bias",)), 2, base=base)
    whole = bus.publish(filled(3.0), 3)
    over = bus.publish(filled(4.0, ("0.bias",)), 4, base=whole)
    expected = [
        (base, {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}),
        (both, {"0.weight": 1.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 1.0}),
        (one, {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 2.0}),
        (whole, {"0.weight": 3.0, "0.bias": 3.0, "1.weight": 3.0, "1.bias": 3.0}),
        (over, {"0.weight": 3.0, "0.bias": 4.0, "1.weight": 3.0, "1.bias": 3.0}),
    ]
    check_in_any_order(expected)


def test_the_base_is_fetched_once(bus: WeightBus, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def counted(ticket: object, publication: Publication, deadline_s: float) -> object:
        opened.append(publication.version)
        return open_before(ticket, publication, deadline_s)

    base = bus.publish(filled(0.0), 0)
    open_before = type(base.ticket).open
    monkeypatch.setattr(type(base.ticket), "open", counted)
    weights = PublishedWeights(module())
    for version in (1, 2, 3):
        weights.load(bus.publish(filled(version, ("1.bias",)), version, base=base))
    assert opened == [0, 1, 2, 3]


def test_after_damage_the_base_is_fetched_again(bus: WeightBus) -> None:
    own = module()
    weights = PublishedWeights(own)
    base = bus.publish(filled(0.0), 0)
    part = bus.publish(filled(1.0, ("1.bias",)), 1, base=base)
    weights.load(part)
    damaged = bus.publish(filled(2.0, ("0.weight",)), 2, base=base)
    damaged.ticket.flat[0][0] ^= 1
    with pytest.raises(CorruptWeights):
        weights.load(damaged)
    weights.load(part)
    assert held(own) == {"0.weight": 0.0, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 1.0}


def adapters(value: float, names: tuple[str, ...] = ("0", "1"), rank: int = 2) -> dict[str, np.ndarray]:
    """Of which each adds 0.5 * rank * value to a weight."""
    found = {"lora_factor": np.array([0.5])}
    for name in names:
        outputs, inputs = module().state_dict()[f"{name}.weight"].shape
        found[f"{name}.lora_a"] = np.ones((rank, inputs), np.float32)
        found[f"{name}.lora_b"] = np.full((outputs, rank), value, np.float32)
    return found


def test_adapters_are_merged_with_their_base_whatever_came_before(bus: WeightBus) -> None:
    base = bus.publish(filled(1.0), 0)
    one = bus.publish(adapters(3.0), 1, base=base, merged=True)
    other = bus.publish(adapters(5.0, ("1",)), 2, base=base, merged=True)
    part = bus.publish(filled(2.0, ("0.bias",)), 3, base=base)
    expected = [
        (base, {"0.weight": 1.0, "0.bias": 1.0, "1.weight": 1.0, "1.bias": 1.0}),
        (one, {"0.weight": 4.0, "0.bias": 1.0, "1.weight": 4.0, "1.bias": 1.0}),
        (other, {"0.weight": 1.0, "0.bias": 1.0, "1.weight": 6.0, "1.bias": 1.0}),
        (part, {"0.weight": 1.0, "0.bias": 2.0, "1.weight": 1.0, "1.bias": 1.0}),
    ]
    check_in_any_order(expected)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"0.lora_b": np.zeros((5, 2), np.float32)}, r"those of 0.weight do not fit its shape \(2, 3\)"),
        ({"0.lora_a": np.zeros((3, 3), np.float32)}, r"those of 0.weight do not fit"),
        (
            {"2.lora_a": np.zeros((2, 3), np.float32), "2.lora_b": np.zeros((2, 2), np.float32)},
            "those of 2.weight do not",
        ),
        ({"0.bias": np.zeros(2, np.float32)}, r"adapters: got \['0.bias', .* allowed a lora_a and a lora_b of each"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(bus: WeightBus, changed: dict[str, np.ndarray], said: str) -> None:
    own = module()
    weights, base = PublishedWeights(own), bus.publish(filled(1.0), 0)
    with pytest.raises(RunFailed, match=said):
        weights.load(bus.publish(adapters(3.0) | changed, 1, base=base, merged=True))
    assert set(held(own).values()) == {1.0}  # nothing was changed before all was looked at
    weights.load(bus.publish(adapters(3.0), 2, base=base, merged=True))
    assert held(own)["1.weight"] == 4.0


def test_damaged_adapters_are_never_merged(bus: WeightBus) -> None:
    own = module()
    weights, base = PublishedWeights(own), bus.publish(filled(1.0), 0)
    damaged = bus.publish(adapters(3.0), 1, base=base, merged=True)
    damaged.ticket.flat[0][0] ^= 1
    with pytest.raises(CorruptWeights):
        weights.load(damaged)
    assert set(held(own).values()) == {1.0}


def test_other_names_shapes_and_types_are_refused(bus: WeightBus) -> None:
    weights = PublishedWeights(module())
    with pytest.raises(RunFailed, match="on one side only"):
        weights.load(bus.publish(filled(0.0, ("0.weight",)), 0))
    with pytest.raises(RunFailed, match=r"0.bias is \[5\], allowed \[2\]"):
        weights.load(bus.publish(filled(0.0) | {"0.bias": np.zeros(5, np.float32)}, 1))
    with pytest.raises(RunFailed, match=r"0.bias is float64, allowed torch.float32"):
        weights.load(bus.publish(filled(0.0) | {"0.bias": np.zeros(2)}, 2))
