"""Is a run exploiting its learned reward? Rules over the history of its evaluations, and which checkpoint to keep.

Every evaluation scores the same prompts with the same noise, so all changes are paired over prompts: a change is the
mean over prompts of differences, its standard error (SE) the deviation of those differences / sqrt(prompts). Scores are
taken in standard deviations between the clips of the first evaluation (sd). What guards a run is never trained on:

    guard "second preference model"   learnt from other listeners than the reward
    guard "held-out judges"           the mean over all other held-out judges of a prompt's scores

An alarm rings at an evaluation where one of these holds there and at the evaluation before it (`consecutive` in a row;
a fall of more than `at_once_se` SE is no accident of one evaluation, and rings at once):

    falls       a guard lies below its best evaluation so far by more than `falls_se` SE and more than `falls_sd` sd
                (`judges_sd` for the held-out judges, which need not like all that listeners like), while the training
                reward lies above what it was at that best evaluation
    parts       over the last `window` evaluations the training reward rises by more than `rises_se` SE of its slope,
                and the slope + 1 SE of the second preference model (without one: of the judges) stays below `follow`
                times the reward's slope: it no longer follows
    narrows     clips of one prompt lie less than `diversity` times as far apart as at the first evaluation
    far         the policy is more than `kl_clip` nats a clip from its reference

Source: the turn of a held-out score against a proxy reward that still rises, Gao et al., Scaling Laws for Reward Model
Overoptimization, 2022, figure 1; MusicRL figures 7 and 8. The rules and their numbers are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from configs.schema import AlarmRules
from evaluation.frontier import kl_at
from evaluation.score_rows import DIVERSITY, MIXTURE, SECOND_PREFERENCE, judges_of, score_matrix, steps_of

GUARD_SECOND, GUARD_JUDGES = "second preference model", "held-out judges"


@dataclass(frozen=True)
class History:
    """E evaluations of one run over P prompts, in order. Scores [E, P] raw; NaN where a prompt has none."""

    steps: np.ndarray  # [E] int64 learner steps
    reward: np.ndarray  # [E, P] what the run trains on, the mixture
    judges: dict[str, np.ndarray]  # held out -> [E, P]
    kl_clip: np.ndarray  # [E] nats a clip
    diversity: np.ndarray | None = None  # [E]; None where it was not measured

    def until(self, evaluations: int) -> History:
        """The first so many evaluations: what was known then."""
        return History(
            self.steps[:evaluations],
            self.reward[:evaluations],
            {name: scores[:evaluations] for name, scores in self.judges.items()},
            self.kl_clip[:evaluations],
            None if self.diversity is None else self.diversity[:evaluations],
        )


@dataclass(frozen=True)
class Alarm:
    """A rule that holds."""

    learner_step: int
    rule: str  # falls, parts, narrows, far
    guard: str  # whose word it is; "" for narrows and far
    text: str  # one line with the numbers
    since: int  # learner step of the evaluation at which the rule began to hold: later checkpoints are not trusted

    @property
    def line(self) -> str:
        return f"step {self.learner_step}: {self.rule}, {self.text}"


@dataclass(frozen=True)
class Proposal:
    """The checkpoint to keep."""

    learner_step: int
    best_step: int  # the checkpoint whose guards are best; the proposed one is as good and nearer to the reference
    why: str
    alarms: tuple[Alarm, ...] = field(default=())


def history_of(
    rows: pa.Table, metric_steps: np.ndarray, kl_clip: np.ndarray, unweighted: Sequence[str] = ()
) -> History:
    """From a run's evaluation rows (score_rows.SCHEMA) and its metrics columns.

    `unweighted`: rewards of weight 0, which are recorded and not trained on: they guard, too. Judges that miss an
    evaluation are left out; the training reward must be there. Raises ValueError where it is not.
    """
    steps = steps_of(rows)
    names = (MIXTURE, *judges_of(rows, in_reward=False), *unweighted, DIVERSITY)
    every = {name: _by_step(rows, steps, name) for name in names}
    whole = {name: scores for name, scores in every.items() if scores is not None}
    if MIXTURE not in whole:
        raise ValueError(f"no evaluation has the training reward {MIXTURE!r}")
    apart = whole.pop(DIVERSITY, None)
    return History(
        np.array(steps, np.int64),
        whole.pop(MIXTURE),
        whole,
        np.array([kl_at(step, metric_steps, kl_clip) for step in steps]),
        None if apart is None else np.nanmean(apart, axis=1),
    )


def alarms(history: History, rules: AlarmRules | None = None) -> list[Alarm]:
    """Every alarm, in the order in which it would have rung. Each looks at nothing later than itself."""
    rules, found = rules or AlarmRules(), []
    began: dict[tuple[str, str], int] = {}  # rule and guard -> row of the evaluation since which it holds
    for row, step in enumerate(history.steps.tolist()):
        holding = {(sign.rule, sign.guard): sign for sign in _holding(history.until(row + 1), rules)}
        began = {key: began.get(key, row) for key in holding}
        for key, sign in holding.items():
            if row - began[key] + 1 >= rules.consecutive or sign.fall_se > rules.at_once_se:
                found.append(Alarm(step, *key, sign.text, int(history.steps[began[key]])))
    return found


def propose_checkpoint(history: History, kept: Sequence[int], rules: AlarmRules | None = None) -> Proposal:
    """Which of the checkpoints `kept` (learner steps, each evaluated) to go on with.

    Among those before the first alarm's signs, the earliest whose guards are not worse than the best's by more than one
    SE: the same worth at less distance from the reference. Raises ValueError where no kept checkpoint was evaluated.
    """
    rules = rules or AlarmRules()
    rung = alarms(history, rules)
    rows = [row for row, step in enumerate(history.steps) if int(step) in set(kept)]
    if not rows:
        raise ValueError(f"checkpoints {list(kept)} were not evaluated, allowed some of {history.steps.tolist()}")
    trusted = rows if not rung else [row for row in rows if history.steps[row] < rung[0].since] or rows[:1]
    guards = guard_scores(history)
    if not guards:
        step = int(history.steps[trusted[-1]])
        return Proposal(
            step, step, f"step {step}: the newest without an alarm; nothing held out was measured", tuple(rung)
        )
    score = np.mean(_complete(list(guards.values())), axis=0)  # [E, P]
    best = max(trusted, key=lambda row: score[row].mean())
    chosen = next(row for row in trusted if _change(score, best, row).mean >= -_change(score, best, row).se)
    return Proposal(
        int(history.steps[chosen]), int(history.steps[best]), _reason(history, score, chosen, best, rung), tuple(rung)
    )


def guard_scores(history: History) -> dict[str, np.ndarray]:
    """Guard -> [E, P] in sd, the second preference model first; NaN for a prompt that none of its judges scores.

    Guards without a judge are left out.
    """
    second = history.judges.get(SECOND_PREFERENCE)
    others = [standardised(scores) for name, scores in history.judges.items() if name != SECOND_PREFERENCE]
    guards = {} if second is None else {GUARD_SECOND: standardised(second)}
    if others:
        stacked = np.stack(others)  # [J, E, P]
        count = np.isfinite(stacked).sum(0)
        total = np.where(np.isfinite(stacked), stacked, 0.0).sum(0)
        guards[GUARD_JUDGES] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return guards


def standardised(scores: np.ndarray) -> np.ndarray:
    """[E, P] raw -> in standard deviations of the first evaluation, about its mean. A prompt that is not scored at
    every evaluation is left out (NaN) at all, so that its coming and going moves no mean."""
    whole = np.isfinite(scores).all(0)
    first = scores[0, whole]
    sd = first.std(ddof=1) if len(first) > 1 else 0.0
    return np.where(whole, (scores - first.mean()) / sd, np.nan) if sd > 0 else np.full(scores.shape, np.nan)


@dataclass(frozen=True)
class _Paired:
    """A mean over prompts and its standard error."""

    mean: float
    se: float


@dataclass(frozen=True)
class _Sign:
    """A rule that holds at one evaluation, taken alone."""

    rule: str
    guard: str
    text: str
    fall_se: float = 0.0  # how many SE a guard has fallen


def _holding(history: History, rules: AlarmRules) -> list[_Sign]:
    """What holds at the last evaluation of `history`."""
    reward, guards = standardised(history.reward), guard_scores(history)
    found = [sign for name, scores in guards.items() if (sign := _falls(name, scores, reward, rules))]
    found += [sign for name, scores in list(guards.items())[:1] if (sign := _parts(name, scores, reward, rules))]
    if history.diversity is not None and history.diversity[-1] < rules.diversity * history.diversity[0]:
        share = history.diversity[-1] / history.diversity[0]
        found.append(_Sign("narrows", "", f"clips of one prompt lie {share:.2f} times as far apart as at first"))
    if 0 < rules.kl_clip < history.kl_clip[-1]:
        text = f"{history.kl_clip[-1]:.1f} nats a clip from the reference, allowed {rules.kl_clip:g}"
        found.append(_Sign("far", "", text))
    return found


def _falls(guard: str, scores: np.ndarray, reward: np.ndarray, rules: AlarmRules) -> _Sign | None:
    last, means = len(scores) - 1, _means(scores)
    if not np.isfinite(means).all():
        return None
    best = int(np.argmax(means))
    fall, gain = _change(scores, best, last), _change(reward, best, last)
    least_sd = rules.falls_sd if guard == GUARD_SECOND else rules.judges_sd
    if not (fall.mean < -max(rules.falls_se * fall.se, least_sd) and gain.mean > 0):
        return None
    text = f"{-fall.mean:.2f} sd ({-fall.mean / fall.se:.1f} SE) below its best, the reward {gain.mean:.2f} sd above"
    return _Sign("falls", guard, f"{guard}: {text}", -fall.mean / fall.se)


def _parts(guard: str, scores: np.ndarray, reward: np.ndarray, rules: AlarmRules) -> _Sign | None:
    if len(scores) < rules.window:
        return None
    driven, follows = _slope(reward[-rules.window :]), _slope(scores[-rules.window :])
    rises = driven.mean > rules.rises_se * driven.se
    if not (rises and follows.mean + follows.se < rules.follow * driven.mean):
        return None
    text = f"{follows.mean:+.3f} ± {follows.se:.3f} sd an evaluation, the reward {driven.mean:+.3f} ± {driven.se:.3f}"
    return _Sign("parts", guard, f"{guard}: {text}, over the last {rules.window}")


def _change(scores: np.ndarray, start: int, end: int) -> _Paired:
    return _paired(scores[end] - scores[start])


def _slope(scores: np.ndarray) -> _Paired:
    """Least-squares slope of each prompt over [W, P] evaluations, an evaluation as unit."""
    away = np.arange(len(scores)) - (len(scores) - 1) / 2
    return _paired(away @ scores / (away @ away))


def _paired(values: np.ndarray) -> _Paired:
    """NaN-free prompts only; an SE of infinity below two of them, so that no rule holds."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return _Paired(0.0, float("inf"))
    return _Paired(float(known.mean()), max(float(known.std(ddof=1)) / np.sqrt(len(known)), 1e-12))


def _means(scores: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is finite, NaN where nothing is. [N, M] -> [N]."""
    known = np.isfinite(scores)
    means = np.where(known, scores, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), means, np.nan)


def _complete(guards: list[np.ndarray]) -> list[np.ndarray]:
    """The guards on the prompts that each of them has scored; all of them where they share none."""
    whole = np.all([np.isfinite(scores).all(0) for scores in guards], axis=0)
    return [scores[:, whole] for scores in guards] if whole.any() else [_means(scores)[:, None] for scores in guards]


def _by_step(rows: pa.Table, steps: list[int], judge: str) -> np.ndarray | None:
    """[E, P], samples of a prompt averaged; None where an evaluation lacks it or has other prompts."""
    scores = [score_matrix(rows, step, judge) for step in steps]
    if len({part.shape for part in scores}) != 1 or not len(scores[0]):
        return None
    return np.stack([_means(part) for part in scores])


def _reason(history: History, score: np.ndarray, chosen: int, best: int, rung: list[Alarm]) -> str:
    step, gain = int(history.steps[chosen]), _change(score, 0, chosen)
    words = f"step {step}: what was held out is {gain.mean:+.2f} ± {gain.se:.2f} sd from the first evaluation"
    if chosen != best:
        words += f", not worse than its best at step {int(history.steps[best])} within one SE and closer to the base"
    if rung:
        words += f"; later ones are not trusted: at step {rung[0].learner_step} {rung[0].rule}, {rung[0].text}"
    return words + f"; {history.kl_clip[chosen]:.1f} nats a clip from the reference"
