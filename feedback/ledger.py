"""Which stages of a long command are finished: noted durably, so that it goes on wherever it was stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.errors import RunFailed, UserError
from cluster.storage import write_text_atomic

PLACES = ("out", "work", "jobs")  # settings that change nothing of the results


class Ledger:
    """FOLDER/WHAT.json: the settings, and each finished stage with its seconds and what it found."""

    def __init__(self, folder: Path, settings: Any, what: str = "study", free: Sequence[str] = PLACES) -> None:
        """free: settings that may change between two starts. Raises UserError where one that may not did."""
        self.folder, self.what, self.path = folder, what, folder / f"{what}.json"
        stated = {key: value for key, value in asdict(settings).items() if key not in free}
        self.notes: dict[str, Any] = {"settings": stated, "stages": {}}
        self._lock = threading.Lock()
        if self.path.exists():
            self.notes = json.loads(self.path.read_text())
            changed = [key for key, value in stated.items() if self.notes["settings"].get(key) != value]
            if changed:
                was, got = self.notes["settings"].get(changed[0]), stated[changed[0]]
                raise UserError(
                    f"{changed[0]}: got {got!r}, but {folder} was begun with {was!r}; allowed that, or work="
                )
        self._write()

    def stage(self, name: str, work: Callable[[], object]) -> dict[str, Any]:
        """Does `work` unless it is noted as finished -> what is noted; facts that `work` returns are part of it."""
        if name in self.notes["stages"]:
            print(f"{self.what}: {name} is finished", flush=True)
            return self.notes["stages"][name]
        print(f"{self.what}: {name} begins", flush=True)
        started = time.monotonic()
        found = work()
        facts = dict(found) if isinstance(found, Mapping) else {}
        with self._lock:
            self.notes["stages"][name] = {"seconds": round(time.monotonic() - started, 1), **facts}
            self._write()
        return self.notes["stages"][name]

    def found(self, name: str) -> dict[str, Any] | None:
        """What is noted of a finished stage; None where it is not finished."""
        return self.notes["stages"].get(name)

    def side_by_side(self, stages: Mapping[str, Callable[[], object]], jobs: int) -> None:
        """Several stages that do not need each other, `jobs` at once. Raises the first failure when all have ended."""
        with ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(self.stage, name, work) for name, work in stages.items()]:
                done.result()

    def command(self, name: str, words: Sequence[object]) -> None:
        """`python -m words`, its output shown and kept in logs/NAME.log. Raises RunFailed where it ends badly."""
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        line = [sys.executable, "-m", *(str(word) for word in words)]
        with (
            log.open("a") as file,
            subprocess.Popen(
                line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            ) as run,
        ):
            assert run.stdout is not None
            for text in run.stdout:
                file.write(text)
                file.flush()
                print(f"  {name}: {text}", end="", flush=True)
        if run.returncode:
            raise RunFailed(f"{name}: ended with status {run.returncode}, see {log}; the same command goes on")

    def _write(self) -> None:
        write_text_atomic(self.path, json.dumps(self.notes, indent=1) + "\n")
