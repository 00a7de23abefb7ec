"""The hidden utility of a clip given its prompt: adherence and quality as a simulated ear hears them, and a taste.

    u_g(clip, prompt) = w_a z(adherence) + w_q z(quality) + w_t z(taste_g),    z(x) = (x - mean) / sd
    taste_g(clip)     = sum_m v_m exp(-((x_m - c_m) / s_m)^2 / 2) / sum_m v_m

Every part lies in [0, 1] before it is scaled, so no clip is worth more than a clip with all its measures at the
centres, which are those of real music. Mean and sd are constants of the parameters: the base policy's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from codec.log_mel import SPECTRA_PER_S
from feedback.simulated_ear import SimulatedEar
from feedback.simulated_measures import MEASURES, loudness_db, measure
from feedback.simulated_parameters import DEFAULT_FILE, PARTS, Group, Parameters, load_parameters
from rewards.port import ClipBatch, ClipView

FEWEST_SPECTRA = 25  # half a second: below it nothing is judged


@dataclass(frozen=True)
class Heard:
    """What is heard of B clips, by everyone alike: tastes only weigh it."""

    adherence: np.ndarray  # [B] in [0, 1]
    quality: np.ndarray  # [B] in [0, 1]
    measures: np.ndarray  # [B, M] over MEASURES
    loudness_db: np.ndarray  # [B]

    def __len__(self) -> int:
        return len(self.adherence)

    def take(self, rows: np.ndarray | slice) -> Heard:
        return Heard(*(getattr(self, field.name)[rows] for field in fields(self)))


def join_heard(parts: Sequence[Heard]) -> Heard:
    return Heard(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Heard)))


def hear(ear: SimulatedEar, log_mel: np.ndarray, prompts: Sequence[str], seconds: float | None = None) -> Heard:
    """What is heard of clips [B, 64, F]; `seconds`: of their beginning only."""
    spectra = log_mel.shape[-1] if seconds is None else max(FEWEST_SPECTRA, round(seconds * SPECTRA_PER_S))
    mel = np.asarray(log_mel[..., :spectra], np.float32)
    adherence, quality = ear.hear(mel, prompts)
    counted = measure(mel)
    return Heard(adherence, quality, np.stack([counted[name] for name in MEASURES], 1), loudness_db(mel))


def taste(measures: np.ndarray, centre: np.ndarray, width: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean of the bumps. measures [B, M]; centre, width, weight [M] -> [B] in [0, 1]."""
    bumps = np.exp(-0.5 * ((measures - centre) / width) ** 2)
    return bumps @ (weight / weight.sum())


def group_utility(heard: Heard, group: Group, parameters: Parameters) -> np.ndarray:
    """Utility of a listener in the middle of the group, [B]."""
    tasted = taste(heard.measures, group.centre, group.width, group.weight)
    return weighed(heard, tasted, parameters.weights, parameters)


def weighed(heard: Heard, tasted: np.ndarray, weights: np.ndarray, parameters: Parameters) -> np.ndarray:
    """The sum over PARTS. tasted [B] or [B, L]; weights [3] or [3, L] -> the shape of `tasted`."""
    columns = {"adherence": heard.adherence, "quality": heard.quality, "taste": tasted}
    total = np.zeros(tasted.shape)
    for name, weight in zip(PARTS, weights, strict=True):
        part, column = parameters.parts[name], columns[name]
        scaled = (column - part.mean) / part.sd
        total += weight * (scaled[:, None] if scaled.ndim < tasted.ndim else scaled)
    return total


def population_utility(heard: Heard, parameters: Parameters) -> np.ndarray:
    """The mean over groups by their shares, [B]: what "the" hidden utility means wherever one number is asked for."""
    return parameters.shares @ np.stack([group_utility(heard, group, parameters) for group in parameters.groups])


class SimulatedUtility:
    """The hidden utility behind rewards.port: for measuring what a policy became, never for tuning one.

    `group`: one group's utility; empty: the population's.
    """

    needs: frozenset[ClipView] = frozenset({"log_mel"})
    shift, scale = 0.0, 1.0

    def __init__(self, listeners: str | Path = DEFAULT_FILE, group: str = "") -> None:
        self.parameters = load_parameters(listeners)
        self.ear = SimulatedEar.load(self.parameters.ear)
        self.group = next((g for g in self.parameters.groups if g.name == group), None)
        if group and self.group is None:
            raise ValueError(f"group: got {group!r}, allowed {', '.join(g.name for g in self.parameters.groups)}")
        self.name = f"simulated_utility_{group}" if group else "simulated_utility"
        self.version = hashlib.sha256(Path(listeners).read_bytes() + self.ear.version.encode()).hexdigest()[:12]

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32; NaN where a clip holds a non-finite value."""
        assert clips.log_mel is not None, "the simulated utility reads log_mel"
        finite = np.isfinite(clips.log_mel).all((1, 2))
        mel = np.where(finite[:, None, None], clips.log_mel, np.float32(-9.0))
        heard = hear(self.ear, mel, clips.prompts)
        if self.group is None:
            found = population_utility(heard, self.parameters)
        else:
            found = group_utility(heard, self.group, self.parameters)
        return np.where(finite, found, np.nan).astype(np.float32)
