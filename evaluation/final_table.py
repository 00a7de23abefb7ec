"""The final evaluation on the terminal: progress while it works, then the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evaluation.evaluate import Progress as Report
from evaluation.words import number, percent, signed, title_of

COLOURS = {"rises": "green", "falls": "red", "unchanged": "default", "unknown": "dim"}
PHASES = {"base": "base", "result": "result", "real": "real clips", "diversity": "diversity"}


@contextmanager
def progress_bars() -> Iterator[dict[str, Report]]:
    """One bar a phase on a terminal, one line a phase elsewhere."""
    console = Console()
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield {key: _bar(progress, label, console) for key, label in PHASES.items()}


def _bar(progress: Progress, label: str, console: Console) -> Report:
    task = progress.add_task(label, total=None, start=False)

    def report(done: int, whole: int) -> None:
        if not progress.tasks[task].started:
            progress.start_task(task)
        progress.update(task, completed=done, total=whole)
        if done == whole and not console.is_terminal:
            console.print(f"{label}: {whole} clips")

    return report


def print_table(summary: dict[str, Any]) -> None:
    """Scores, then the measures of the whole set."""
    console = Console(width=None if Console().is_terminal else 140)
    plan = summary["plan"]
    console.print(
        f"\n[bold]Base against result[/bold] (step {summary['learner_step']}): {plan['prompts']} prompts, "
        f"{len(plan['seeds'])} clip(s) of {plan['seconds']:g} s each, same noise for both"
    )
    console.print(_scores(summary))
    console.print(_measures(summary))


def _scores(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (("score", "left"), ("base", "right"), ("result", "right"), ("gain", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("95 %")
    for name in ("Wilcoxon p", "shuffled..real"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for in_reward, title in ((True, "in the reward"), (False, "held out")):
        members = {judge: s for judge, s in summary["scores"].items() if s["in_reward"] == in_reward}
        if members:
            table.add_row(f"[dim]{title}[/dim]")
        for judge, score in members.items():
            table.add_row(*_score_row(judge, score, summary["positions"].get(judge, {})))
    return table


def _score_row(judge: str, score: dict[str, Any], place: dict[str, Any]) -> list[str]:
    gain, verdict = score["gain_sd"], score["verdict"]
    stands = f"{percent(place['base']['value'])} > {percent(place['result']['value'])}" if "base" in place else ""
    return [
        "  " + title_of(judge),
        number(score["before"]),
        number(score["after"]),
        f"{signed(gain['value'])} sd",
        f"[{signed(gain['low'])}, {signed(gain['high'])}]".replace("[", r"\["),
        f"{score['p_value']:.1e}" if score["p_value"] is not None else "",
        stands,
        f"[{COLOURS[verdict]}]{verdict}[/]",
    ]


def _measures(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column()
    kl = summary["kl"]
    table.add_row("KL from the reference", f"{between(kl['clip'])} nats a clip, {number(kl['token'], 4)} a token")
    if summary["diversity"]:
        for line in diversity_lines(summary["diversity"]):
            table.add_row(*line)
    if summary["frechet"]:
        frechet = summary["frechet"]
        table.add_row(
            "Distance from real clips",
            f"base {number(frechet['base'])}, result {number(frechet['result'])}, change {between(frechet['change'])} "
            f"({ {'falls': 'nearer', 'rises': 'farther'}.get(frechet['verdict'], frechet['verdict']) })",
        )
    return table


def diversity_lines(diversity: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        (
            "Diversity in a prompt",
            f"base {between(diversity['base'])}, result {between(diversity['result'])} "
            f"= {between(diversity['ratio_to_base'])} of the base's",
        )
    ]
    if "real" in diversity:
        real = f"{between(diversity['real'])}, the result has {between(diversity['ratio_to_real'])} of it"
        lines.append(("  real clips of one caption", real))
    return lines


def between(interval: dict[str, Any]) -> str:
    """`0.41 (0.39 to 0.43)`"""
    return f"{number(interval['value'])} ({number(interval['low'])} to {number(interval['high'])})"
