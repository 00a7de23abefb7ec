"""The live panel: reward, KL, held-out judges, where the time goes, how long it still takes."""

from __future__ import annotations

import itertools

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from learner.standing import Standing, duration

STAGE_STYLES = {
    "sample": "blue",
    "decode": "cyan",
    "score": "green",
    "learn": "magenta",
    "publish": "yellow",
    "evaluate": "bright_green",
    "checkpoint": "bright_yellow",
    "wait": "red",
}
_BLOCKS = "▁▂▃▄▅▆▇█"


def render_panel(standing: Standing, width: int) -> RenderableType:
    """The whole panel for a terminal `width` columns wide."""
    inner = max(20, min(width, 100) - 4)
    body: list[RenderableType] = [_bar(standing, inner), _values(standing, inner - 18)]
    if shares := standing.stage_shares():
        body += [_stage_bar(shares, inner), _stage_legend(shares)]
    if standing.status:
        body.append(Text(f"… {standing.status}", style="italic"))
    return Panel(Group(*body), title=standing.title, title_align="left", width=inner + 4, border_style="dim")


def sparkline(values: list[float], width: int) -> str:
    """Values as one line of blocks, averaged into at most `width` columns; NaN is left out."""
    finite = [value for value in values if value == value]
    if len(finite) < 2 or width < 1:
        return ""
    columns = min(width, len(finite))
    edges = [round(i * len(finite) / columns) for i in range(columns + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[min(7, int(8 * (mean - low) / span))] for mean in means)


def _bar(standing: Standing, width: int) -> RenderableType:
    done = f" {standing.step}/{standing.total_steps}"
    left = f"  left {duration(standing.left_s)}" if standing.left_s is not None else ""
    label = f"{done}  {duration(standing.elapsed_s)}{left}"
    grid = Table.grid(expand=False)
    bar = ProgressBar(total=standing.total_steps, completed=standing.step, width=max(8, width - len(label)))
    grid.add_row(bar, Text(label))
    return grid


def _values(standing: Standing, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    if (reward := standing.value("reward")) is not None:
        line = sparkline(standing.reward_history, max(8, width - 28))
        grid.add_row("reward", f"{reward:+.3f} (from {standing.first('reward'):+.3f})  {line}")
        grid.add_row("", _pairs(standing, "reward_"))
    if (kl := standing.value("kl_clip")) is not None:
        per_token, entropy = standing.value("kl"), standing.value("entropy")
        detail = f"  {per_token:.4f} nats/token" if per_token is not None else ""
        detail += f"  entropy {entropy:.2f}" if entropy is not None else ""
        grid.add_row("KL", f"{kl:.2f} nats/clip{detail}")
    if standing.names("judge_"):
        grid.add_row("held-out", _pairs(standing, "judge_"))
    if standing.alarm:
        grid.add_row(Text("ALARM", style="bold red"), Text(standing.alarm, style="red"))
    if standing.storage:
        grid.add_row(Text("STORAGE", style="bold yellow"), Text(standing.storage, style="yellow"))
    if standing.actors:
        grid.add_row("actors", standing.actors)
    if (rate := standing.sequences_per_s()) is not None:
        audio, staleness = standing.value("audio_seconds_per_second"), standing.value("staleness")
        speed = f"{rate:.1f} sequences/s"
        speed += f"  {audio:.1f} s of audio a second" if audio is not None else ""
        speed += f"  staleness {staleness:.1f}" if staleness is not None else ""
        grid.add_row("speed", speed)
    return grid


def _pairs(standing: Standing, prefix: str) -> str:
    parts = []
    for name in standing.names(prefix):
        value, first = standing.value(name), standing.first(name)
        if value is not None and first is not None:
            parts.append(f"{name.removeprefix(prefix)} {value:.3g} (from {first:.3g})")
    return "  ".join(parts)


def _stage_bar(shares: dict[str, float], width: int) -> Text:
    bar, drawn, reached = Text(no_wrap=True), 0, 0.0
    for stage, share in shares.items():
        reached += share
        end = round(reached * width)
        bar.append("█" * (end - drawn), style=STAGE_STYLES.get(stage, "bright_black"))
        drawn = end
    return bar


def _stage_legend(shares: dict[str, float]) -> Text:
    legend = Text()
    for stage, share in shares.items():
        if share >= 0.01:
            legend.append("■", style=STAGE_STYLES.get(stage, "bright_black")).append(f" {stage} {share:.0%} ")
    return legend
