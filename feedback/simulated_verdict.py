"""When a run was at its best for the simulated listeners, when it had lost a part of that, and what the guard did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOSS = 0.05  # share of the gain from the start to the best checkpoint so far
NOISE_SE = 2.0  # standard errors of the difference from that checkpoint below which a loss may be the prompts' noise


@dataclass(frozen=True)
class Verdict:
    """One run. Utilities are mean gains over the first evaluation's checkpoint, paired over prompts."""

    run: str
    over_trained: bool
    last_step: int
    peak_step: int
    peak: float
    peak_se: float
    below_step: int | None  # first step at which the mean is below the best so far by more than LOSS of its gain
    lost_step: int | None  # first step at which that is more than noise, too
    lost: float | None  # the utility there
    lost_se: float | None  # of its difference from the peak's
    end: float  # at the last step
    end_se: float
    alarm_step: int | None
    alarm: str  # rule and guard of the first alarm
    at_alarm: float | None
    proposed_step: int | None
    proposed: float | None

    @property
    def in_time(self) -> bool | None:
        """Whether the alarm came before the loss. None where nothing was lost."""
        return self._before(self.lost_step)

    @property
    def before_mean(self) -> bool | None:
        """Whether it came before the mean alone, noise or not, was below."""
        return self._before(self.below_step)

    def _before(self, step: int | None) -> bool | None:
        return None if step is None else self.alarm_step is not None and self.alarm_step < step


@dataclass(frozen=True)
class GainCurve:
    """Utility of E checkpoints of one run over N prompts, as gain over the first of them."""

    steps: np.ndarray  # [E]
    gain: np.ndarray  # [E, N]

    @property
    def mean(self) -> np.ndarray:
        """[E]."""
        return self.gain.mean(1)

    def at(self, step: int | None) -> float | None:
        """The mean gain at a step; None where it was not measured."""
        rows = np.flatnonzero(self.steps == step)
        return float(self.mean[rows[0]]) if len(rows) else None

    def se(self, row: int, other: int | None = None) -> float:
        """Of a mean gain, or of the difference between two, over prompts."""
        values = self.gain[row] if other is None else self.gain[row] - self.gain[other]
        return float(values.std(ddof=1) / np.sqrt(len(values)))

    @property
    def peak_row(self) -> int:
        """The best row before the loss; of all where nothing was lost."""
        lost = self.lost_row()
        return self.best_until(len(self.steps) - 1 if lost is None else lost)

    def best_until(self, row: int) -> int:
        return int(np.argmax(self.mean[: row + 1]))

    def lost_row(self, noise_se: float = NOISE_SE) -> int | None:
        """The first row below the best so far by more than LOSS of its gain, and `noise_se` SE of the difference."""
        for row in range(1, len(self.steps)):
            best = self.best_until(row)
            fall = self.mean[best] - self.mean[row]
            if self.mean[best] > 0 and fall > max(LOSS * self.mean[best], noise_se * self.se(row, best)):
                return row
        return None


def gain_curve(hidden: dict[int, np.ndarray]) -> GainCurve:
    """learner step -> [N] utility; the gain over the first step. Raises ValueError without one."""
    if not hidden:
        raise ValueError("no checkpoint was measured")
    steps = sorted(hidden)
    scores = np.stack([hidden[step] for step in steps])
    return GainCurve(np.array(steps), (scores - scores[0])[:, np.isfinite(scores).all(0)])


def verdict_of(
    run: str,
    over_trained: bool,
    curve: GainCurve,
    alarm: tuple[int, str] | None,
    proposed_step: int | None,
) -> Verdict:
    """alarm: the first one's learner step, and its rule and guard in words."""
    peak, lost, below = curve.peak_row, curve.lost_row(), curve.lost_row(noise_se=0.0)
    return Verdict(
        run,
        over_trained,
        int(curve.steps[-1]),
        int(curve.steps[peak]),
        float(curve.mean[peak]),
        curve.se(peak),
        None if below is None else int(curve.steps[below]),
        None if lost is None else int(curve.steps[lost]),
        None if lost is None else float(curve.mean[lost]),
        None if lost is None else curve.se(lost, peak),
        float(curve.mean[-1]),
        curve.se(len(curve.steps) - 1),
        alarm[0] if alarm else None,
        alarm[1] if alarm else "",
        curve.at(alarm[0]) if alarm else None,
        proposed_step,
        curve.at(proposed_step),
    )
