"""The catalogue of metrics: the one place that says what is measured, in which unit, and what it means.

The Prometheus exporter (names with the prefix `musicrl_`), the columns of `metrics.parquet` (without it) and
docs/metrics.md (`python -m cluster.catalogue` prints it) are made from it. A name that is not here is an error.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

PREFIX = "musicrl_"
STAGES = (
    "start",
    "sample",
    "decode",
    "score",
    "insert",
    "wait",
    "learn",
    "publish",
    "evaluate",
    "checkpoint",
    "other",
)
ROLES = ("generator", "scorer", "replay", "learner", "evaluator")

LABELS = {"NAME": "name", "STAGE": "stage", "ROLE": "role"}  # of a family's members, beside their names

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True)
class Metric:
    """One entry. A name with NAME, STAGE or ROLE in it stands for a family; stages and roles are listed above.

    A counter is a sum since step 0, resumes included: it never falls. It is exported without `_total`, so that its
    Prometheus name stays that of its column.
    """

    name: str
    unit: str
    meaning: str
    kind: Kind = "gauge"
    whole: bool = False  # int64 in metrics.parquet, else float64
    timing: bool = False  # depends on the clock or the machine: may differ between two runs of one seed
    live: bool = False  # read whenever Prometheus asks; no column of metrics.parquet

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        families = {"NAME": "[a-z][a-z0-9_]*", "STAGE": "|".join(STAGES), "ROLE": "|".join(ROLES)}
        parts = re.split("(NAME|STAGE|ROLE)", self.name)
        return re.compile("".join(f"({families[part]})" if part in families else part for part in parts))

    @property
    def is_family(self) -> bool:
        return self.pattern.groups > 0

    def labels(self, name: str) -> dict[str, str]:
        """Prometheus labels of a member of a family beside `run`: {"stage": "learn"}; empty for a plain entry."""
        member = self.pattern.fullmatch(name)
        if not self.is_family or member is None:
            return {}
        label = next(word for word in LABELS if word in self.name)
        return {LABELS[label]: member[1]}


def _live(name: str, unit: str, meaning: str, whole: bool = False) -> Metric:
    return Metric(name, unit, meaning, whole=whole, timing=True, live=True)


def _count(name: str, unit: str, meaning: str, timing: bool = False) -> Metric:
    return Metric(name, unit, meaning, kind="counter", whole=True, timing=timing)


CATALOGUE: tuple[Metric, ...] = (
    Metric("learner_step", "steps", "Updates finished, this one included.", whole=True),
    Metric("policy_version", "versions", "Version that this step published.", whole=True),
    Metric("time_unix", "s", "When the step ended, seconds since 1970.", timing=True),
    Metric("reward", "1", "Mean mixed reward of the trained batch: normalised, weighted, summed."),
    Metric("reward_std", "1", "Standard deviation of the mixed reward within the batch."),
    Metric("reward_NAME", "raw score", "Mean raw score of one reward over the trained batch."),
    Metric("judge_NAME", "raw score", "Mean score of one held-out judge; only at steps that evaluate."),
    Metric(
        "alarm", "1", "1 where an over-optimisation alarm rang at the newest evaluation, else 0; see guard.", whole=True
    ),
    _count("alarms", "alarms", "Over-optimisation alarms so far: rules that rang, over all evaluations."),
    Metric("kl", "nats/token", "Exact KL of the policy from the reference, mean over cells."),
    Metric("kl_clip", "nats/clip", "The same KL, summed over the cells of a clip; above some 20 the policy drifts."),
    Metric("kl_stream_NAME", "nats/token", "The same KL in one stream of the codes, mean over its cells."),
    Metric("entropy", "nats/token", "Entropy of the policy, mean over cells."),
    Metric("policy_loss", "nats/token", "The objective of the update, negated, without the value loss."),
    Metric("value_loss", "1", "Half the squared error of the value network against the reward."),
    Metric("explained_variance", "1", "Share of the reward's variance that the baseline explains; at most 1."),
    Metric("advantage_std", "1", "Standard deviation of reward minus baseline."),
    Metric("importance_weight_mean", "1", "Mean of w = min(pi / mu, c) over cells; 1 when on-policy."),
    Metric("importance_weight_max", "1", "Largest w over cells."),
    Metric(
        "sampler_mismatch",
        "nats/token",
        "Mean of |log pi - log mu| over cells: newer weights, and what a sampler in 16 bits rounds.",
    ),
    Metric("importance_clipped", "1", "Share of cells whose w reached c."),
    Metric("grad_norm", "1", "Global norm of the policy's gradient before clipping."),
    Metric("value_grad_norm", "1", "Global norm of the value network's gradient before clipping."),
    Metric("learning_rate", "1", "Learning rate of the policy in this step."),
    Metric("staleness", "versions", "Mean of learner version minus row version, counted when a row is consumed."),
    Metric(
        "staleness_max", "versions", "Largest staleness in the batch; never above pipeline.max_staleness.", whole=True
    ),
    Metric("sequences", "sequences", "Rows trained in this step.", whole=True),
    Metric("tokens", "tokens", "Cells trained in this step.", whole=True),
    Metric("audio_seconds_per_second", "s/s", "Audio trained over wall clock of the step.", timing=True),
    Metric("seconds_STAGE", "s", "Wall clock of the step spent in a stage; all stages add up to it.", timing=True),
    Metric("seconds_step", "s", "Wall clock from the end of the last step to the end of this one.", timing=True),
    Metric("busy_STAGE", "s", "Seconds that workers spent in a stage for the rows of this step.", timing=True),
    _count(
        "restarts_ROLE", "restarts", "Actors of a role started again after they died or missed a deadline.", timing=True
    ),
    _count(
        "stalls_STAGE",
        "stalls",
        "Times that nothing got done for pipeline.stall_warn_s, or that an actor missed its deadline, in a stage.",
        timing=True,
    ),
    _count(
        "handed_back_ROLE",
        "calls",
        "Calls that another actor took over: theirs was lost or drained.",
        timing=True,
    ),
    _count("late_ROLE", "answers", "Answers of actors that had been replaced with their node, refused.", timing=True),
    _count("scores_missing", "scores", "Scores that a reward did not give: error, timeout or not finite."),
    _count("rows_dropped", "rows", "Rows stored but never trained: too stale, or without a reward."),
    _count("rows_duplicate", "rows", "Rows offered to the replay store a second time, and not stored.", timing=True),
    _count("rows_refused", "rows", "Rows of another incarnation of the run, refused by the replay store.", timing=True),
    _count(
        "weights_refused", "publications", "Weights that a checksum refused, and that were fetched anew.", timing=True
    ),
    Metric("replay_rows", "rows", "Rows in the replay store that wait to be trained.", whole=True, timing=True),
    Metric("replay_bytes", "bytes", "Size of the replay store on disk.", whole=True, timing=True),
    Metric("memory_bytes", "bytes", "Resident memory of the run's processes together.", whole=True, timing=True),
    _live("steps_planned", "steps", "Steps after which the run is done.", whole=True),
    _live(
        "staleness_bound", "versions", "Largest staleness that admission lets through; 0 when synchronous.", whole=True
    ),
    _live("replay_bytes_bound", "bytes", "Size at which the replay store refuses rows: replay.max_bytes.", whole=True),
    _live("disk_free_bytes", "bytes", "Free space on the disk of the run folder.", whole=True),
    _live("tasks_in_flight", "tasks", "Rollout tasks that are being sampled, scored or stored.", whole=True),
    _live(
        "actors_ROLE", "actors", "Actors of a role that stand ready or work; lost ones count when replaced.", whole=True
    ),
    _live("storage_waiting", "s", "Object storage takes no write: seconds since it last did; 0 while it does."),
    _live("storage_wait_bound", "s", "Seconds of that after which the run ends: storage.deadline_s."),
    _live("storage_pending_bytes", "bytes", "Files of the run that are not on object storage yet.", whole=True),
    _live("storage_uploaded_bytes", "bytes", "Written to object storage since the run was started.", whole=True),
    _live("wanted_ROLE", "actors", "Actors that a role should have: as configured, or as the ledger asks.", whole=True),
    _live("pending_ROLE", "actors", "Actors that wait for a node, start, or fetch weights.", whole=True),
    _live("nodes_wait", "s", "How long the pending actor waits that has waited longest; 0 where there is none."),
    _live("nodes_wait_bound", "s", "Seconds after which an actor of a growing role is given up: nodes_deadline_s."),
    _live("stall_bound", "s", "Seconds without progress after which the run ends: pipeline.stall_s."),
    _live("stalled_STAGE", "s", "Seconds since anything got done, for each stage that is under way or waited for."),
)


@functools.lru_cache(maxsize=4096)
def find_metric(name: str) -> Metric:
    """The catalogue's entry for a column name; a plain entry goes before a family.

    Raises KeyError for a name that is not in the catalogue.
    """
    matching = [metric for metric in CATALOGUE if metric.pattern.fullmatch(name)]
    if not matching:
        raise KeyError(f"metric {name!r} is not in cluster/catalogue.py")
    return min(matching, key=lambda metric: metric.is_family)


def column_order(name: str) -> tuple[int, str]:
    """Sort key: the catalogue's order, members of a family by stage, else by name."""
    metric = find_metric(name)
    member = metric.pattern.fullmatch(name)
    part = member[1] if member and metric.is_family else ""
    return CATALOGUE.index(metric), f"{STAGES.index(part):02d}" if part in STAGES else part


def is_reproducible(name: str) -> bool:
    """Whether two synchronous runs of one seed give the same values, bit for bit."""
    return not find_metric(name).timing


_INTRODUCTION = f"""# Metrics

Made from `cluster/catalogue.py` by `python -m cluster.catalogue > docs/metrics.md`. Do not edit.

Every learner step gives one row of `metrics.parquet`, whose columns are the names below. With `metrics.port=PORT` the
same values are served to Prometheus at `http://HOST:PORT/metrics` under the same names with the prefix `{PREFIX}`
and the label `run`, the name of the run folder; members of a family carry a second label, `name`, `stage` or `role`.
What is marked "live" is served only, and read at that moment. `NAME` stands for a reward or a judge, `STAGE` for one of
{", ".join(STAGES)}, `ROLE` for one of {", ".join(ROLES)}.

A gauge is a value of the step. A counter is a sum since step 0, resumes included; it is exported without the suffix
`_total`, so that both names stay equal. "clock" marks what depends on the machine and may differ between two runs
of one seed; in synchronous mode everything else is equal bit for bit.
"""


def _mark(metric: Metric) -> str:
    return "live" if metric.live else "clock" if metric.timing else ""


def markdown() -> str:
    """The page docs/metrics.md."""
    rows = [f"| `{m.name}` | {m.unit} | {m.kind} | {_mark(m)} | {m.meaning} |" for m in CATALOGUE]
    return "\n".join([_INTRODUCTION, "| name | unit | kind | | meaning |", "|---|---|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
