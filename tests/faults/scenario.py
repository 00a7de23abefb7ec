"""One run, and everything that a seed's schedule does to it: what was noticed when, and when the run got on again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.storage import write_text_atomic
from tests.faults.audit import Audit, audit
from tests.faults.disturbed_run import DisturbedRun, Hangs
from tests.faults.place import Place, local_place
from tests.faults.schedule import Fault, Kind, draw
from tests.system.tiny_world import TinyWorld, check_trained_once, metrics_of, steps_done

LIMIT_S = 240.0  # for the start of a run, and for any step; a busy machine is not a hang
ENDS = (
    *(("kill", role) for role in ("driver", "learner", "node", "gcs", "machine")),
    ("hang", "learner"),
    ("fill", "disk"),
    ("lock", "disk"),
)
AT_ONCE = {"generator", "scorer", "replay", "learner", "driver"}  # what every step needs
REPLACED = {"kill": "died", "hang": "missed its deadline"}  # in the run's words
REASONS = {"fill": "No space left on device", "lock": "Read-only file system"}
ONLY = os.environ.get("FAULT", "")  # the number of one fault of the schedule, to repeat it alone


@dataclass
class Outcome:
    """What became of one fault. Seconds are counted from the moment it struck; None: there was nothing to notice."""

    number: int
    fault: Fault
    step: int = 0  # done when it struck
    detected_s: float | None = None
    recovered_s: float = 0.0  # two steps more were done; of a resumed run, its first
    end: str = ""  # "went on" | "replaced" | "resumed"


@dataclass
class Scenario:
    """A schedule on one run of the tiny world. settings: of the run, dots written as two underscores. place: of the run
    folder; a local one where none is given."""

    name: str
    seed: int
    pairs: Sequence[tuple[Kind, str]]
    settings: dict[str, Any]
    detection_limit_s: float = LIMIT_S
    place: Place | None = None
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
        self.place = place = self.place or local_place(folder)
        self._journal, self._gate = folder / "journal.jsonl", folder / "journal.gate"
        faults = list(enumerate(draw(self.seed, int(self.settings["learner__steps"]), self.pairs)))
        print(f"\n{self.label}: {len(faults)} faults; to repeat: {self.repeat}")
        print(*(f"  {number:2d}  {fault}" for number, fault in faults), sep="\n", flush=True)
        run = self._start(world.arguments(Path("-"), **self.settings, run__dir=place.name))
        try:
            for number, fault in faults:
                if ONLY in ("", str(number)):
                    run = self._meet(run, Outcome(number, fault))
            self._gate.unlink(missing_ok=True)
            assert run.wait_for_end(LIMIT_S) == 0, run.tail
        except AssertionError as error:
            struck = str(self.outcomes[-1].fault) if self.outcomes else "before the first fault"
            raise AssertionError(f"{self.label}, {struck}: {error}\nto repeat: {self.repeat}") from error
        finally:
            run.kill()
        run_dir = place.whole()
        self.audited = audit(self._journal, run_dir / "replay")
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

    def _start(self, arguments: list[str]) -> DisturbedRun:
        assert self.place is not None
        return DisturbedRun(arguments, self.place.run_dir, self._journal, self.place.environment, self.place.roots)

    def _meet(self, run: DisturbedRun, outcome: Outcome) -> DisturbedRun:
        """One fault -> the run that goes on: the same process, or the one that resumed it."""
        self.outcomes.append(outcome)
        fault = outcome.fault
        self._let(fault.step)
        run.wait_for_step(fault.step, LIMIT_S)
        time.sleep(fault.delay_s)
        outcome.step, struck = steps_done(run.run_dir), time.monotonic()
        self._let(self._noticed_by(fault, outcome.step))
        self._strike(run, fault)
        if (fault.kind, fault.role) in ENDS:
            return self._resume(run, outcome, struck)
        if fault.kind in REPLACED or fault.role == "workers":
            for role in fault.role.split("+"):
                heard = _wait_for(lambda role=role: _replaced(run, role, fault.kind, struck), f"{role} replaced", run)
                outcome.detected_s = max(outcome.detected_s or 0.0, heard - struck)
            outcome.end = "replaced"
        else:
            outcome.end = "went on"
        # two steps: what the first is made of may have been there before
        step = min(steps_done(run.run_dir) + 2, int(self.settings["learner__steps"]))
        self._let(step)
        outcome.recovered_s = run.wait_for_step(step, LIMIT_S) - struck
        assert self.place is not None
        if fault.role == "workers":
            with run.held("learner"):  # a short run would be over before a node is there
                self.place.heal()
        return run

    def _let(self, step: int) -> None:
        """The run may take steps up to this one, and those that it might take already."""
        write_text_atomic(self._gate, str(max(step, int(self._gate.read_text()) if self._gate.exists() else 0)))

    def _noticed_by(self, fault: Fault, step: int) -> int:
        """The step until which a fault makes itself felt: at once, or with the next evaluation or checkpoint."""
        every = int(self.settings["evaluation__every"])
        return step + 2 if set(fault.role.split("+")) <= AT_ONCE else (step // every + 1) * every + 2

    def _strike(self, run: DisturbedRun, fault: Fault) -> None:
        assert self.place is not None
        if fault.role in self.place.roles:
            if fault.role == "machine":
                run.kill()
            self.place.strike(fault)
            return
        _wait_for(lambda: all(run.pids(role) for role in fault.role.split("+")), f"a process of {fault.role}", run)
        run.strike(fault)

    def _resume(self, run: DisturbedRun, outcome: Outcome, struck: float) -> DisturbedRun:
        """A run that ends, with one line where it can still speak, and its first step after a resume."""
        assert self.place is not None
        fault, place = outcome.fault, self.place
        status = run.wait_for_end(self.detection_limit_s)
        outcome.detected_s = time.monotonic() - struck
        assert status != 0, f"ended well although {fault}\n{run.tail}"
        print(f"  {outcome.number:2d}  ended with {status}: {run.last_line[:300]}", flush=True)
        if fault.role in ("learner", "disk"):
            assert run.last_line.startswith("error: ") and "run.resume=" in run.last_line, run.tail
            assert REASONS.get(fault.kind, "") in run.last_line and "Traceback" not in run.tail, run.tail
        run.kill()
        if fault.role == "disk":
            self._refused()
        place.mend()
        again = self._start([f"run.resume={place.name}"])
        at = _wait_for(lambda: again.heard("resumed at step", 0.0), "resumed at step", again)
        line = next(line for when, line in again.lines if when == at)
        step = int(re.findall(r"resumed at step (\d+)", line)[0])
        outcome.recovered_s = again.wait_for_step(step + 1, LIMIT_S) - struck
        outcome.end = "resumed"
        return again

    def _refused(self) -> None:
        """While the harm lasts, a resume is refused in one line, before anything starts."""
        assert self.place is not None
        with self._start([f"run.resume={self.place.name}"]) as refused:
            assert refused.wait_for_end(LIMIT_S) == 2, refused.tail
            assert refused.last_line.startswith("error: run.") and "Traceback" not in refused.tail, refused.tail


def _replaced(run: DisturbedRun, role: str, kind: Kind, since: float) -> float | None:
    """When the run said so of a member of `role`; of a node of workers, one of either role."""
    words = r"\b(generator|scorer) \d+ .*: replaced" if role == "workers" else rf"\b{role} \d+ {REPLACED[kind]}"
    pattern = re.compile(words)
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
