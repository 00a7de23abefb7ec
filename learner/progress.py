"""How a run tells a person where it stands: a live panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from learner.progress_panel import render_panel
from learner.standing import Row, Standing, duration

LINES_PER_RUN = 60  # about so many lines for a whole run,
LONGEST_SILENCE_S = 30.0  # but no silence longer than this


class Progress:
    """The one voice of a run on the terminal.

    mode: `auto` (a panel if `stream` is a terminal, else lines), `panel`, `lines` or `off` (messages only).
    """

    def __init__(
        self,
        total_steps: int,
        mode: str = "auto",
        title: str = "MusicRL",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        stream = stream or sys.stdout
        self._console = Console(file=stream, force_terminal=True if mode == "panel" else None, highlight=False)
        self._mode = _chosen_mode(mode, self._console)
        self._standing = Standing(total_steps, title, clock)
        self._printed_s = clock()
        self._clock = clock
        self._live: Live | None = None
        if self._mode == "panel":
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=2)
            self._live.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, row: Row) -> None:
        """Shows the metrics row of a learner step."""
        self._standing.add(row)
        if self._mode == "lines" and self._is_due():
            self._printed_s = self._clock()
            self._print(line(self._standing))

    def evaluated(self, means: Mapping[str, float]) -> None:
        """Shows mean scores of held-out judges, by name."""
        self._standing.evaluated(means)
        if self._mode == "lines" and means:
            self._print("held-out  " + "  ".join(f"{name} {mean:.3g}" for name, mean in means.items()))

    def status(self, text: str) -> None:
        """What the run is doing now, where no step tells: starting, evaluating, saving."""
        if text == self._standing.status:
            return
        self._standing.status = text
        if self._mode == "lines" and text:
            self._print(f"… {text}")

    def actors(self, text: str) -> None:
        """How many actors there are and what they wait for, in the panel."""
        self._standing.actors = text

    def message(self, text: str) -> None:
        """An event that a person should know: a restart, a checkpoint, a warning. Stays on the screen."""
        self._print(text)

    def alarm(self, text: str) -> None:
        """An over-optimisation alarm: told like a message, and the newest stays in the panel."""
        self._standing.alarm = text
        self._print(f"ALARM {text}")

    def storage_waits(self, url: str, cause: str, deadline_s: float) -> None:
        """Object storage takes no write: the run goes on to its next checkpoint and waits there."""
        self._standing.storage = f"{cause}: waiting, at most {duration(deadline_s)}"
        self._print(f"storage: {url}: {self._standing.storage}")

    def storage_is_back(self, url: str, after_s: float) -> None:
        self._standing.storage = ""
        self._print(f"storage: {url} takes writes again after {duration(after_s)}; nothing is lost")

    def close(self) -> None:
        """Leaves the last state on the screen; may be called twice."""
        if self._live:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        return render_panel(self._standing, self._console.width)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _is_due(self) -> bool:
        standing = self._standing
        every = max(1, standing.total_steps // LINES_PER_RUN)
        return (
            standing.step % every == 0
            or standing.step in (1, standing.total_steps)
            or self._clock() - self._printed_s >= LONGEST_SILENCE_S
        )


def line(standing: Standing) -> str:
    """The newest state in one plain line."""
    parts = [f"step {standing.step}/{standing.total_steps}"]
    reward = standing.value("reward")
    if reward is not None:
        each = ", ".join(f"{name[7:]} {standing.value(name):.3g}" for name in standing.names("reward_"))
        parts.append(f"reward {reward:+.3f}" + (f" ({each})" if each else ""))
    if (kl := standing.value("kl_clip")) is not None:
        parts.append(f"KL {kl:.2f} nats/clip")
    parts += [f"{name[6:]} {standing.value(name):.3g}" for name in standing.names("judge_")]
    if standing.step_s is not None:
        largest = sorted(standing.stage_shares().items(), key=lambda item: -item[1])[:3]
        where = ", ".join(f"{stage} {share:.0%}" for stage, share in largest)
        parts.append(f"{standing.step_s:.2f} s/step" + (f" ({where})" if where else ""))
        parts.append(f"left {duration(standing.left_s or 0)}")
    return "  ".join(parts)


def _chosen_mode(mode: str, console: Console) -> str:
    if mode != "auto":
        return mode
    return "panel" if console.is_terminal and not console.is_dumb_terminal else "lines"
