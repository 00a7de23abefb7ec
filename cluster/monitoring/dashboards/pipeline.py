"""Does the run get on, and where does its time go?"""

from __future__ import annotations

from cluster.monitoring.dashboards.board import OF_RUN, ROLE, RUN, Dashboard, Panel, Query, Row, of_catalogue
from cluster.monitoring.series import series


def _of(name: str) -> str:
    return f"max by (run) ({series(name, OF_RUN)})"


PROGRESS = Panel(
    "Done",
    (Query(f"{_of('learner_step')} / {_of('steps_planned')}"),),
    "percentunit",
    "Steps done of steps planned.",
    "number",
    width=4,
)
LEFT = Panel(
    "Time left",
    (Query(f"({_of('steps_planned')} - {_of('learner_step')}) * {_of('seconds_step')}"),),
    "s",
    "Steps left, at the pace of the newest step.",
    "number",
    width=4,
)
LEDGER = Panel(
    "Wall clock by stage",
    (Query(f"musicrl:stage_seconds:share5m{{{OF_RUN}}}", "{{stage}} {{run}}"),),
    "percentunit",
    "Share of each stage in the wall clock of the last five minutes; all stages add up to 100 %. Choose one run.",
    "stacked",
    width=12,
    least=0,
    most=1,
)
MISSING = Panel(
    "Share of scores missing",
    (Query(f"musicrl:scores_missing:share10m{{{OF_RUN}}}"),),
    "percentunit",
    "Scores that rewards did not give, of those that the last ten minutes asked for.",
    least=0,
)
SEQUENCES = Panel(
    "Sequences a second",
    (Query(f"{_of('sequences')} / {_of('seconds_step')}"),),
    "short",
    "Sequences trained in the newest step over its wall clock.",
    least=0,
)

PIPELINE = Dashboard(
    "musicrl-pipeline",
    "MusicRL / Pipeline",
    "The ledger of time, staleness, queues, throughput, pools and weights.",
    (RUN, ROLE),
    (
        Row(
            "Where the time goes",
            (
                PROGRESS,
                LEFT,
                of_catalogue("Step", "learner_step", kind="number", width=4),
                LEDGER,
                of_catalogue("Seconds of a step", "seconds_step", least=0),
                of_catalogue("Seconds by stage", "seconds_STAGE", least=0),
                of_catalogue("Seconds of workers by stage", "busy_STAGE", least=0),
                of_catalogue("No progress for", "stalled_STAGE", least=0),
                of_catalogue("Stalls by stage", "stalls_STAGE", least=0),
            ),
        ),
        Row(
            "Throughput",
            (
                of_catalogue("Audio trained, seconds a second", "audio_seconds_per_second", least=0),
                SEQUENCES,
                of_catalogue("Cells a step", "tokens", least=0),
            ),
        ),
        Row(
            "Staleness and queues",
            (
                of_catalogue("Staleness", "staleness", "staleness_max", "staleness_bound", least=0),
                of_catalogue("Tasks in flight", "tasks_in_flight", least=0),
                of_catalogue("Rows that wait", "replay_rows", least=0),
                of_catalogue("Replay store", "replay_bytes", "replay_bytes_bound", least=0),
                MISSING,
                of_catalogue(
                    "Rows and scores lost", "scores_missing", "rows_dropped", "rows_duplicate", "rows_refused", least=0
                ),
                of_catalogue("Weights refused", "weights_refused", least=0),
            ),
        ),
        Row(
            "Pools and weights",
            (
                of_catalogue("Actors by role", "actors_ROLE", least=0),
                of_catalogue("Restarts by role", "restarts_ROLE", least=0),
                of_catalogue("Version of the weights", "policy_version"),
            ),
        ),
    ),
)
