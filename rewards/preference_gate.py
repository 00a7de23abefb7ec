"""May a new version of the preference model serve as a reward?

The rule, on held-out votes that neither version has learnt from (decided ones, the side left out):

    1. at least FEWEST_VOTES votes from at least FEWEST_PROMPTS prompts,
    2. above chance: the 95 % interval of its accuracy lies above one half,
    3. above the current version: the 95 % interval of the paired difference of accuracies lies above zero
       (rule="above"), or its lower end not below -margin (rule="not_below"); without a current version nothing.

Both intervals resample whole prompts (votes on clips of one prompt are alike), the second keeps the two versions'
answers to a vote together. The exact tests that know no prompts, binomial and McNemar's, are reported beside them.
Source: McNemar, Psychometrika 12, 1947; resampling: rewards/preference_figures.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from rewards.preference_figures import Share, clustered_share, hits
from rewards.preference_pairs import PairSet

FEWEST_VOTES, FEWEST_PROMPTS = 50, 20
RULES = ("above", "not_below")


@dataclass(frozen=True)
class Verdict:
    """The gate's answer and what it rests on. `gain`: accuracy of the new less that of the current version."""

    passed: bool
    reason: str
    accuracy: Share
    current: Share | None = None
    gain: Share | None = None
    p_chance: float = float("nan")  # exact binomial, one-sided
    p_current: float = float("nan")  # exact McNemar, one-sided

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def may_serve(
    new: np.ndarray,
    current: np.ndarray | None,
    held_out: PairSet,
    rule: str = "above",
    margin: float = 0.01,
    seed: int = 0,
) -> Verdict:
    """new, current: score differences a - b [P] of the two versions for every vote of `held_out`; None: no current."""
    decided = held_out.take(held_out.decided)
    ours = hits(new[held_out.decided], decided.choices)
    share = clustered_share(ours, decided.prompts, seed)
    prompts = len(np.unique(decided.prompts.astype(str)))
    if share.n < FEWEST_VOTES or prompts < FEWEST_PROMPTS:
        need = f"needed {FEWEST_VOTES} of {FEWEST_PROMPTS}"
        return Verdict(False, f"{share.n} held-out votes of {prompts} prompts, {need}", share)
    p_chance = float(stats.binomtest(int(ours.sum()), share.n, alternative="greater").pvalue)
    if not share.low > 0.5:
        return Verdict(False, f"not above chance: accuracy {_shown(share)}", share, p_chance=p_chance)
    if current is None:
        return Verdict(True, f"above chance: accuracy {_shown(share)}; no current version", share, p_chance=p_chance)
    theirs = hits(current[held_out.decided], decided.choices)
    before, gain = clustered_share(theirs, decided.prompts, seed), clustered_share(ours - theirs, decided.prompts, seed)
    passed = gain.low > 0 if rule == "above" else gain.low >= -margin
    sure, unsure = (
        ("above the current version", "not above the current version")
        if rule == "above"
        else (f"not {margin:g} below the current version", f"maybe more than {margin:g} below the current version")
    )
    reason = f"{sure if passed else unsure}: gain {_shown(gain)}, accuracy {_shown(share)}"
    return Verdict(passed, reason, share, before, gain, p_chance, _mcnemar(ours, theirs))


def _mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """One-sided exact p that the new version is right more often where the two differ."""
    better, worse = int((ours > theirs).sum()), int((ours < theirs).sum())
    return float(stats.binomtest(better, better + worse, alternative="greater").pvalue) if better + worse else 1.0


def _shown(share: Share) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}] on {share.n} votes"
