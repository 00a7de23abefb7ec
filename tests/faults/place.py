"""Where a run's folder lies, and the harm that can come to it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.schedule import Fault


@dataclass
class Place:
    """A local folder that nothing happens to."""

    name: str  # as a person types it: run.dir, run.resume
    run_dir: Path  # where this machine has it
    environment: dict[str, str] = field(default_factory=dict)  # of the run
    roles: tuple[str, ...] = ()  # what of this place a schedule may harm

    def strike(self, fault: Fault) -> None:
        """Does the harm; a harm that lasts is over on return, or with `heal`."""
        raise ValueError(f"{fault.role}: not of this place")

    def heal(self) -> None:
        """What a run went on without comes back."""

    def roots(self, driver: int) -> list[int]:
        """Processes below which the actors are: a driver that started its own Ray has them below itself."""
        return [driver]

    def mend(self) -> None:
        """Everything is as before."""

    def whole(self) -> Path:
        """The folder of the finished run."""
        return self.run_dir


def local_place(folder: Path) -> Place:
    return Place(str(folder / "run"), folder / "run")
