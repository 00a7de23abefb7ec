"""The simulated listeners' parameters: one YAML file, read into typed records and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cluster.errors import UserError
from cluster.session import PROJECT_ROOT
from feedback.simulated_measures import MEASURES

PARTS = ("adherence", "quality", "taste")
DEFAULT_FILE = Path(__file__).with_name("simulated_listeners.yaml")


@dataclass(frozen=True)
class Part:
    """Mean and standard deviation of a part of the utility between clips of the base policy."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Group:
    """Listeners of one taste. Arrays run over MEASURES."""

    name: str
    share: float
    centre: np.ndarray  # [M]
    width: np.ndarray  # [M]
    weight: np.ndarray  # [M]


@dataclass(frozen=True)
class Spread:
    """A normal distribution over listeners."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Raters:
    """Those who mark clips from 1 to 5."""

    weights: np.ndarray  # [3] over PARTS
    noise: float
    first: float
    cuts: np.ndarray  # [4], rising


@dataclass(frozen=True)
class Parameters:
    """All of simulated_listeners.yaml, in its order and its units."""

    ear: Path
    prefix_s: float
    parts: dict[str, Part]
    weights: np.ndarray  # [3] over PARTS
    groups: tuple[Group, ...]
    count: int
    weight_spread: float
    centre_spread: float
    noise: dict[int, float]  # agreement in per cent -> scale of the logistic noise
    tie: float
    neither: float
    first: Spread
    louder_per_db: Spread
    short_attention: float
    spam: float
    spam_short: float
    spam_short_s: float
    raters: Raters

    def noise_of(self, agreement: int) -> float:
        """Scale of the decision noise in the setting `agreement`. Raises UserError for one that is not calibrated."""
        if agreement not in self.noise:
            allowed = " or ".join(str(known) for known in sorted(self.noise))
            raise UserError(f"agreement: got {agreement}, allowed {allowed}")
        return self.noise[agreement]

    @property
    def shares(self) -> np.ndarray:
        """Share of each group, [G], summing to one."""
        return np.array([group.share for group in self.groups])


def load_parameters(path: str | Path = DEFAULT_FILE) -> Parameters:
    """Raises UserError in one line: no such file, no YAML, an entry missing, unknown or no usable number."""
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"listeners: {path} cannot be read ({' '.join(str(error).split())})") from None
    try:
        parameters = _parameters(entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"listeners: {path} has a wrong or missing entry ({type(error).__name__}: {error})") from None
    _check(parameters, path)
    return parameters


def _parameters(entries: Mapping[str, Any]) -> Parameters:
    listeners, answers, biases, spam = (entries[name] for name in ("listeners", "answers", "biases", "spam"))
    raters = entries["raters"]
    ear = Path(entries["ear"])
    return Parameters(
        ear=ear if ear.is_absolute() or ear.exists() else PROJECT_ROOT / ear,
        prefix_s=float(entries["prefix_s"]),
        parts={name: Part(**entries["parts"][name]) for name in PARTS},
        weights=_over_parts(entries["weights"]),
        groups=tuple(_group(name, group) for name, group in entries["groups"].items()),
        count=int(listeners["count"]),
        weight_spread=float(listeners["weight_spread"]),
        centre_spread=float(listeners["centre_spread"]),
        noise={int(agreement): float(scale) for agreement, scale in entries["noise"].items()},
        tie=float(answers["tie"]),
        neither=float(answers["neither"]),
        first=Spread(**biases["first"]),
        louder_per_db=Spread(**biases["louder_per_db"]),
        short_attention=float(biases["short_attention"]),
        spam=float(spam["share"]),
        spam_short=float(spam["short"]),
        spam_short_s=float(spam["short_s"]),
        raters=Raters(
            _over_parts(raters["weights"]), float(raters["noise"]), float(raters["first"]), np.array(raters["cuts"])
        ),
    )


def _over_parts(weights: Mapping[str, float]) -> np.ndarray:
    if set(weights) != set(PARTS):
        raise ValueError(f"weights of {sorted(weights)}, allowed those of {', '.join(PARTS)}")
    return np.array([float(weights[name]) for name in PARTS])


def _group(name: str, entries: Mapping[str, Any]) -> Group:
    taste = entries["taste"]
    if set(taste) != set(MEASURES):
        raise ValueError(f"group {name} with {sorted(taste)}, allowed {', '.join(MEASURES)}")
    columns = (np.array([float(taste[measure][key]) for measure in MEASURES]) for key in ("centre", "width", "weight"))
    return Group(name, float(entries["share"]), *columns)


def _check(parameters: Parameters, path: str | Path) -> None:
    shares = {"short_attention": parameters.short_attention, "spam.share": parameters.spam}
    rules = {
        "groups: shares must sum to one": bool(np.isclose(parameters.shares.sum(), 1.0)),
        "groups: widths must be positive": all((group.width > 0).all() for group in parameters.groups),
        "groups: weights must not be negative": all((group.weight >= 0).all() for group in parameters.groups),
        "parts: deviations must be positive": all(part.sd > 0 for part in parameters.parts.values()),
        "noise: scales must be positive": all(scale > 0 for scale in parameters.noise.values()),
        "raters.cuts: must be four rising numbers": parameters.raters.cuts.shape == (4,)
        and bool((np.diff(parameters.raters.cuts) > 0).all()),
        "listeners.count: must be at least 2": parameters.count >= 2,
        **{f"{name}: must lie in [0, 1]": 0 <= share <= 1 for name, share in shares.items()},
    }
    for rule, kept in rules.items():
        if not kept:
            raise UserError(f"listeners: {path}: {rule}")
