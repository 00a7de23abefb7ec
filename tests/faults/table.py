"""The summary of all faults met: one line each, written anew after every scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.faults.scenario import Outcome, Scenario

PATH = Path("build") / "faults.md"
COLUMNS = (
    *("run", "fault", "role", "after step", "detected after s", "recovered after s", "how"),
    *("rows acknowledged", "lost", "twice", "weights equal"),
)


class Table:
    """build/faults.md, of this session."""

    def __init__(self, path: Path = PATH) -> None:
        self.path = path
        self.faults = 0
        self._lines: list[str] = []

    def add(self, scenario: Scenario) -> None:
        """The rows of a run stand beside each of its faults: they were counted at its end."""
        self.faults += len(scenario.outcomes)
        self._lines += [_line(scenario, outcome) for outcome in scenario.outcomes]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = [f"{self.faults} faults\n\n", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
        self.path.write_text("".join([*head, *self._lines]))


def _line(scenario: Scenario, outcome: Outcome) -> str:
    fault, rows = outcome.fault, scenario.audited
    lasting = f" {fault.lasts_s:g} s" if fault.lasts_s else ""
    detected = "" if outcome.detected_s is None else f"{outcome.detected_s:.1f}"
    counts = [rows.acknowledged, len(rows.lost), len(rows.twice)] if rows else ["?", "?", "?"]
    equal = {True: "yes", False: "NO", None: ""}[scenario.equal]
    cells = [scenario.label, fault.kind + lasting, fault.role, outcome.step, detected, f"{outcome.recovered_s:.1f}"]
    return _row([*cells, outcome.end, *counts, equal])


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"
