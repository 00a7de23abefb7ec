"""The alerts: what is wrong, how it shows in the metrics, and what to do about it.

Every threshold says where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.monitoring.pace import Pace
from cluster.monitoring.series import FEEDBACK, family, series


@dataclass(frozen=True)
class Alert:
    name: str
    expr: str
    for_s: float
    severity: str  # "critical": a run is lost or is being spoilt; "warning": look at it today
    summary: str
    action: str  # what to do about it


def training(pace: Pace) -> list[Alert]:
    """The run learns something else than it should."""
    finite = [_not_finite(name) for name in ("reward", "kl", "entropy", "policy_loss", "value_loss", "grad_norm")]
    kl = "musicrl:kl:mean5m"
    return [
        Alert(
            "RewardCollapsed",
            # rewards are normalised to the base's spread: 1 is one standard deviation, most of what a run gains
            f"musicrl:reward:mean5m < max_over_time(musicrl:reward:mean5m[{pace.span(6 * 3600)}]) - 1",
            300,
            "warning",
            "{{ $labels.run }}: the reward fell by more than one standard deviation from its best",
            "Listen to the newest samples; go on from an earlier checkpoint with a lower learner.learning_rate.",
        ),
        Alert(
            "RewardSpreadGone",
            # healthy runs stay above 1 at batches of 64
            f"avg by (run) (avg_over_time({series('reward_std')}[{pace.span(600)}])) < 0.1",
            300,
            "warning",
            "{{ $labels.run }}: all clips of a batch get the same reward, which teaches nothing",
            "Look at the clips: the policy may play one thing for every prompt. Check the reward's normalisation.",
        ),
        Alert(
            "KlRunaway",
            # runs of the embedded default end at 0.04 nats a token; doubling within half an hour above 0.1 is no
            # longer learning
            f"{kl} > 0.25 or ({kl} > 0.1 and {kl} > 2 * ({kl} offset {pace.span(1800)}))",
            120,
            "critical",
            '{{ $labels.run }}: KL from the reference is {{ $value | printf "%.2f" }} nats a token and runs away',
            "Stop the run; go on from an earlier checkpoint with a higher learner.alpha.",
        ),
        Alert(
            "NotFinite",
            " or ".join(finite),
            0,
            "critical",
            "{{ $labels.run }}: {{ $labels.metric }} is not finite",
            "The run ends before such an update. Look at the log and at the rewards' scores of that step.",
        ),
        Alert(
            "OverOptimisation",
            f"max by (run) ({series('alarm')}) == 1",
            0,
            "critical",
            "{{ $labels.run }}: the reward rises while its guards fall",
            "alarms.json of the run names rule, step and the checkpoint to use. guard.stop_on_alarm ends such runs.",
        ),
    ]


def pipeline(pace: Pace) -> list[Alert]:
    """The run does not get on."""
    planned = f"max by (run) (max_over_time({series('steps_planned')}[{pace.span(900)}]))"
    done = f"max by (run) (max_over_time({series('learner_step')}[{pace.span(900)}]))"
    step_s = f"max by (run) (max_over_time({series('seconds_step')}[{pace.span(900)}]))"
    restarts = f"increase({family('restarts_ROLE')}[{pace.span(900)}])"
    return [
        Alert(
            "RunStalled",
            f"max by (run, stage) ({family('stalled_STAGE')}) > on (run) group_left ()"
            f" (0.5 * max by (run) ({series('stall_bound')}))",
            0,
            "critical",
            "{{ $labels.run }}: nothing got done for {{ $value | humanizeDuration }} in {{ $labels.stage }}",
            "At pipeline.stall_s the run ends by itself. stalls.log of its folder names the actor and has its stacks.",
        ),
        Alert(
            "RunGone",
            # what is left must be worth a scrape or two: the last steps of a run that ends well are not always seen
            f"(({planned} - {done}) * {step_s} > {pace.seconds(120)} unless on (run) {series('steps_planned')})"
            f" unless on (run) (max by (run) (max_over_time({series('alarm')}[{pace.span(900)}])) == 1)",
            60,
            "critical",
            "{{ $labels.run }}: ended before its last step",
            "Its log has the cause in the last line, and the way back: run.resume.",
        ),
        Alert(
            "StalenessNearBound",
            f"max by (run) (avg_over_time({series('staleness')}[{pace.span(600)}]))"
            f" > 0.9 * (max by (run) ({series('staleness_bound')}) > 0)",
            600,
            "warning",
            "{{ $labels.run }}: rows are nearly as old as admission allows",
            "Generators lag behind the learner: add generators, or give them more CPUs.",
        ),
        Alert(
            "ScoresMissing",
            "musicrl:scores_missing:share10m > 0.01",
            300,
            "warning",
            "{{ $labels.run }}: {{ $value | humanizePercentage }} of the scores are missing",
            "A reward fails, is late or gives numbers that are not finite: its scorer's log says which.",
        ),
        Alert(
            "ActorsRestarting",
            f"max by (run, role) ({restarts}) > 3",
            0,
            "warning",
            '{{ $labels.run }}: {{ $labels.role }} actors were replaced {{ $value | printf "%.0f" }} times',
            "Pre-empted nodes do this now and then. Otherwise look for memory in the Fleet dashboard.",
        ),
        Alert(
            "ActorsMissing",
            f"max by (run, role) ({family('actors_ROLE')}) < max by (run, role) ({family('wanted_ROLE')})",
            600,
            "warning",
            "{{ $labels.run }}: a {{ $labels.role }} was lost and its place stays empty",
            "The cluster has no room for it: look at the group's size and at pending nodes.",
        ),
        Alert(
            "NodesAwaited",
            f"max by (run) ({series('nodes_wait')}) > on (run) (0.5 * max by (run) ({series('nodes_wait_bound')}))",
            0,
            "warning",
            "{{ $labels.run }}: actors have waited for nodes for {{ $value | humanizeDuration }}",
            "At actors.nodes_deadline_s the run goes on without them. Look at quotas, and at what `ray status` says.",
        ),
        Alert(
            "ReplayStoreFull",
            f"max by (run) ({series('replay_bytes')}) > 0.9 * max by (run) ({series('replay_bytes_bound')})",
            300,
            "warning",
            "{{ $labels.run }}: the replay store is nearly full",
            "Raise replay.max_bytes, or lower run.keep_checkpoints: rows are kept for kept checkpoints.",
        ),
        Alert(
            "RunDiskFull",
            f"min by (run) ({series('disk_free_bytes')}) < 2e9"
            f" or min by (run) (predict_linear({series('disk_free_bytes')}[{pace.span(3600)}],"
            f" {pace.seconds(4 * 3600)})) < 0",
            300,
            "critical",
            "{{ $labels.run }}: the disk of the run folder is full, or will be within four hours",
            "Make room, or move the run: stop it, copy its folder, run.resume.",
        ),
        Alert(
            "StorageWaiting",
            f"max by (run) ({series('storage_waiting')}) > 0.1 * max by (run) ({series('storage_wait_bound')})",
            0,
            "critical",
            "{{ $labels.run }}: object storage has taken no write for {{ $value | humanizeDuration }}",
            "The run waits, and ends at storage.deadline_s. Its log says what the server answers; docs/storage.md.",
        ),
    ]


def fleet(pace: Pace) -> list[Alert]:
    """Nodes, as Ray itself reports them."""
    return [
        Alert(
            "NodeMemoryFull",
            "ray_node_mem_used / ray_node_mem_total > 0.92",  # Ray kills workers from 0.95 on
            300,
            "warning",
            "{{ $labels.instance }}: {{ $value | humanizePercentage }} of the memory is in use",
            "Ray soon kills workers here. Fewer actors a node, or larger nodes.",
        ),
        Alert(
            "NodeDiskFull",
            "ray_node_disk_usage / (ray_node_disk_usage + ray_node_disk_free) > 0.9",
            300,
            "warning",
            "{{ $labels.instance }}: {{ $value | humanizePercentage }} of the disk is in use",
            "At 95 % Ray refuses objects. Old sessions in /tmp/ray may go.",
        ),
        Alert(
            "ObjectStoreFull",
            "ray_object_store_used_memory / (ray_object_store_used_memory + ray_object_store_available_memory) > 0.9",
            300,
            "warning",
            "{{ $labels.instance }}: the object store is nearly full and spills to disk",
            "Clips wait for scorers: more scorers, or a smaller actors.rollout_size.",
        ),
    ]


def listeners(pace: Pace) -> list[Alert]:
    """The listening app."""
    quantile = (
        f"histogram_quantile(0.99, sum by (instance, le) (rate({FEEDBACK}store_seconds_bucket[{pace.span(300)}])))"
    )
    return [
        Alert(
            "ClipMakersDown",
            f"{FEEDBACK}makers_up == 0",
            120,
            "critical",
            "{{ $labels.instance }}: no clip maker answers, listeners get no new pairs",
            "The app tries again by itself; its log says why they fail.",
        ),
        Alert(
            "AnswersLost",
            f'sum by (instance) (increase({FEEDBACK}refused_total{{status=~"5.."}}[{pace.span(300)}])) > 0',
            0,
            "critical",
            "{{ $labels.instance }}: answers cannot be saved",
            "Pages keep them and send them again. Look at the database and its disk.",
        ),
        Alert(
            "AnswersSlow",
            f"{quantile} > 1",
            300,
            "warning",
            "{{ $labels.instance }}: saving an answer takes {{ $value | humanizeDuration }} (99th percentile)",
            "Look at the database and at the disk under it.",
        ),
    ]


def _not_finite(name: str) -> str:
    """NaN is the one number that differs from itself."""
    own = series(name)
    return f'label_replace({own} != {own} or abs({own}) == Inf, "metric", "{name}", "", "")'
