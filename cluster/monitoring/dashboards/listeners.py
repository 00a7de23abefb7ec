"""Do listeners get pairs, and do their answers arrive? What the listening app serves at /metrics."""

from __future__ import annotations

from cluster.monitoring.dashboards.board import Dashboard, Panel, Query, Row, Variable
from cluster.monitoring.series import FEEDBACK

APP = Variable("instance", "instance", f"{FEEDBACK}makers_up", "App")
OF_APP = 'instance=~"$instance"'


def _per_hour(title: str, name: str, label: str, about: str) -> Panel:
    expr = f"sum by ({label}) (increase({FEEDBACK}{name}_total{{{OF_APP}}}[1h]))"
    return Panel(title, (Query(expr, f"{{{{{label}}}}}"),), about=about, least=0)


def _now(title: str, name: str, about: str, **more: object) -> Panel:
    return Panel(title, (Query(f"{FEEDBACK}{name}{{{OF_APP}}}", "{{instance}}"),), about=about, **more)  # type: ignore[arg-type]


def _times(title: str, name: str, about: str) -> Panel:
    """Median, 95th and 99th percentile of a histogram."""
    queries = tuple(
        Query(
            f"histogram_quantile({share}, sum by (le) (rate({FEEDBACK}{name}_bucket{{{OF_APP}}}[$__rate_interval])))",
            words,
        )
        for share, words in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
    )
    return Panel(title, queries, "s", about, least=0)


LISTENERS = Dashboard(
    "musicrl-listeners",
    "MusicRL / Listeners",
    "Votes, agreement, waiting times and the versions that are compared.",
    (APP,),
    (
        Row(
            "Answers",
            (
                Panel("Votes", (Query(f"sum({FEEDBACK}votes_total{{{OF_APP}}})", "votes"),), kind="number", width=4),
                Panel(
                    "Ratings", (Query(f"sum({FEEDBACK}ratings_total{{{OF_APP}}})", "ratings"),), kind="number", width=4
                ),
                _now(
                    "Agreement",
                    "agreement",
                    "Share of two listeners' answers to one pair that prefer the same clip.",
                    unit="percentunit",
                    kind="number",
                    width=4,
                ),
                Panel(
                    "Models that are compared",
                    (Query(f"{FEEDBACK}models{{{OF_APP}}}", "{{policy}} {{version}}"),),
                    about="Names and content hashes of the policies.",
                    kind="number",
                    width=12,
                ),
                _per_hour("Votes in an hour", "votes", "choice", "Acknowledged answers by choice."),
                _per_hour("Requests refused in an hour", "refused", "status", "429: too many; 5xx: answers not saved."),
                _times("Until an answer is saved", "store_seconds", "Until the preference log acknowledged it."),
            ),
        ),
        Row(
            "Pairs",
            (
                _now("Clip makers", "makers_up", "1: the last task of the clip makers succeeded.", least=0, most=1),
                _now("Pairs made ahead", "pool_pairs", "Fresh pairs of suggested prompts.", least=0),
                _now("Own prompts that wait", "queue", "The line of listeners who wrote a prompt.", least=0),
                _times("Until a pair is there", "pair_wait_seconds", "From asking for a pair to having it."),
                _times("To make a pair", "pair_make_seconds", "From the start of sampling to a pair in the log."),
                _per_hour("Pairs made in an hour", "pairs_made", "purpose", "By what they are for."),
                _per_hour("Pairs failed in an hour", "pairs_failed", "purpose", "The app tries again, or says so."),
            ),
        ),
    ),
)
