"""One run, and everything that a seed's schedule does to it: what was noticed when, and when the run got on again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.audit import Audit, audit
from tests.faults.disk import Disk
from tests.faults.disturbed_run import DisturbedRun, Hangs
from tests.faults.schedule import Fault, Kind, draw
from tests.system.tiny_world import TinyWorld, check_trained_once, metrics_of, steps_done

LIMIT_S = 240.0  # for the start of a run, and for any step; a busy machine is not a hang
ENDS = (("kill", "driver"), ("kill", "learner"), ("kill", "node"), ("kill", "gcs"), ("hang", "learner"))
REASONS = {"fill": "No space left on device", "lock": "Read-only file system"}
MOST_ROOM_BYTES = 150_000  # on a disk that is filled: for some more rows, or for part of a checkpoint
ONLY = os.environ.get("FAULT", "")  # the number of one fault of the schedule, to repeat it alone


@dataclass
class Outcome:
    """What became of one fault. Seconds are counted from the moment it struck; None: there was nothing to notice."""

    number: int
    fault: Fault
    step: int = 0  # done when it struck
    detected_s: float | None = None
    recovered_s: float = 0.0  # a step more was done, after what was lost had been replaced
    end: str = ""  # "went on" | "replaced" | "resumed"


@dataclass
class Scenario:
    """A schedule on one run of the tiny world. settings: of the run, dots written as two underscores. disk: where the
    run folder lies, for schedules that harm it."""

    name: str
    seed: int
    pairs: Sequence[tuple[Kind, str]]
    settings: dict[str, Any]
    detection_limit_s: float = LIMIT_S
    disk: Disk | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    audited: Audit | None = None
    equal: bool | None = None  # final weights are those of an undisturbed run; None: not comparable

    @property
    def label(self) -> str:
        return f"{self.name}-{self.seed}"

    @property
    def repeat(self) -> str:
        return f'make test-faults ARGS="-s -k {self.label}"; one fault alone: FAULT=number before it'

    def run(self, world: TinyWorld, folder: Path) -> Path:
        """-> the run folder. Raises Hangs; AssertionError where the run ends otherwise than it should."""
        run_dir, journal = self.disk.run_dir if self.disk else folder / "run", folder / "journal.jsonl"
        faults = list(enumerate(draw(self.seed, int(self.settings["learner__steps"]), self.pairs)))
        print(f"\n{self.label}: {len(faults)} faults; to repeat: {self.repeat}")
        print(*(f"  {number:2d}  {fault}" for number, fault in faults), sep="\n", flush=True)
        run = DisturbedRun(world.arguments(run_dir, **self.settings), run_dir, journal)
        try:
            for number, fault in faults:
                if ONLY in ("", str(number)):
                    run = self._meet(run, Outcome(number, fault), journal)
            assert run.wait_for_end(LIMIT_S) == 0, run.tail
        except AssertionError as error:
            struck = str(self.outcomes[-1].fault) if self.outcomes else "before the first fault"
            raise AssertionError(f"{self.label}, {struck}: {error}\nto repeat: {self.repeat}") from error
        finally:
            run.kill()
        self.audited = audit(journal, run_dir / "replay")
        return run_dir

    def check(self, run_dir: Path) -> None:
        """Nothing acknowledged is lost, nothing is trained twice, every step is there."""
        assert self.audited is not None
        assert [row["learner_step"] for row in metrics_of(run_dir)] == list(
            range(1, self.settings["learner__steps"] + 1)
        )
        assert (self.audited.lost, self.audited.twice) == ((), ()), self.repeat
        assert self.audited.acknowledged > 0
        check_trained_once(run_dir)

    def _meet(self, run: DisturbedRun, outcome: Outcome, journal: Path) -> DisturbedRun:
        """One fault -> the run that goes on: the same process, or the one that resumed it."""
        self.outcomes.append(outcome)
        fault = outcome.fault
        run.wait_for_step(fault.step, LIMIT_S)
        time.sleep(fault.delay_s)
        outcome.step, struck = steps_done(run.run_dir), time.monotonic()
        roles = fault.role.split("+")
        if fault.role == "disk":
            return self._meet_disk(run, outcome, struck, journal)
        _wait_for(lambda: all(run.pids(role) for role in roles), f"a process of {fault.role}")
        run.strike(fault)
        if (fault.kind, fault.role) in ENDS:
            return self._resume(run, outcome, struck, journal)
        if fault.kind in ("kill", "hang"):
            words = "died" if fault.kind == "kill" else "missed its deadline"
            heard = [
                _wait_for(lambda role=role: _replaced(run, role, words, struck), f"{role} {words}") for role in roles
            ]
            outcome.detected_s = max(heard) - struck
            outcome.end = "replaced"
        else:
            outcome.end = "went on"
        outcome.recovered_s = run.wait_for_step(steps_done(run.run_dir) + 1, LIMIT_S) - struck
        return run

    def _meet_disk(self, run: DisturbedRun, outcome: Outcome, struck: float, journal: Path) -> DisturbedRun:
        """The run ends with one line, is refused with one line while the harm lasts, and goes on after it."""
        disk, fault = self.disk, outcome.fault
        assert disk is not None
        if fault.kind == "fill":
            disk.fill(int(fault.chance * MOST_ROOM_BYTES))
        else:
            disk.make_read_only()
        status = run.wait_for_end(self.detection_limit_s)
        outcome.detected_s = time.monotonic() - struck
        assert (status, REASONS[fault.kind] in run.last_line, "run.resume=" in run.last_line) == (1, True, True), (
            run.tail
        )
        assert run.last_line.startswith("error: ") and "Traceback" not in run.tail, run.tail
        with DisturbedRun([f"run.resume={run.run_dir}"], run.run_dir, journal) as refused:
            assert refused.wait_for_end(LIMIT_S) == 2, refused.tail
            assert refused.last_line.startswith("error: run.dir: ") and "Traceback" not in refused.tail, refused.tail
        disk.mend()
        return self._go_on(run, outcome, struck, journal)

    def _resume(self, run: DisturbedRun, outcome: Outcome, struck: float, journal: Path) -> DisturbedRun:
        fault = outcome.fault
        status = run.wait_for_end(self.detection_limit_s)
        outcome.detected_s = time.monotonic() - struck
        assert status != 0, f"ended well although {fault}\n{run.tail}"
        if fault.role == "learner":
            assert run.last_line.startswith("error: ") and "run.resume=" in run.last_line, run.tail
        return self._go_on(run, outcome, struck, journal)

    def _go_on(self, run: DisturbedRun, outcome: Outcome, struck: float, journal: Path) -> DisturbedRun:
        """Resumes a run that ended, and waits for its first step."""
        run.kill()
        again = DisturbedRun([f"run.resume={run.run_dir}"], run.run_dir, journal)
        at = _wait_for(lambda: again.heard("resumed at step", 0.0), "resumed at step", again)
        line = next(line for when, line in again.lines if when == at)
        step = int(re.findall(r"resumed at step (\d+)", line)[0])
        outcome.recovered_s = again.wait_for_step(step + 1, LIMIT_S) - struck
        outcome.end = "resumed"
        return again


def _replaced(run: DisturbedRun, role: str, words: str, since: float) -> float | None:
    """When the run said so of a member of `role`."""
    pattern = re.compile(rf"\b{role} \d+ {words}")
    return next((at for at, line in run.lines if at >= since and pattern.search(line)), None)


def _wait_for(ask: Callable[[], Any], what: str, run: DisturbedRun | None = None) -> Any:
    until = time.monotonic() + LIMIT_S
    while not (answer := ask()):
        if run is not None:
            assert run.process.poll() is None, f"ended with {run.process.returncode} before {what}\n{run.tail}"
        if time.monotonic() > until:
            raise Hangs(f"{what} was not seen within {LIMIT_S:g} s")
        time.sleep(0.05)
    return answer
