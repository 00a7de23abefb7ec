"""A reward model in a process and an environment of its own: a Ray actor that runs another Python.

The environment is a folder made by `python -m rewards.environment MODEL DIR` (or any virtual environment of the same
Python version that has Ray's version). On a cluster it must be there on every node that scores. The model's packages
are imported there alone: the scorer that asks it keeps its own.

A call that does not answer in time ends the process; the next call starts it anew.
"""

from __future__ import annotations

import atexit
import importlib
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import UserError
from rewards.port import ClipBatch, ClipView

START_S = 600.0  # to start the process and read the weights
POLL_S = 0.25  # an alarm of the caller is noticed between two polls


class Host:
    """The actor: holds one model, answers calls of its methods. Failures to build it are told, not raised."""

    def __init__(self, target: str, arguments: dict[str, Any], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._model, self._error = None, ""
        module, _, name = target.partition(":")
        try:
            self._model = getattr(importlib.import_module(module), name)(**arguments)
        except UserError as error:
            self._error = str(error)
        except Exception as error:  # whatever a foreign package raises while it is built
            self._error = " ".join(f"{type(error).__name__}: {error}".split())[:300]

    def facts(self) -> dict[str, Any]:
        """What the proxy repeats; "error" where the model could not be built."""
        if self._model is None:
            return {"error": self._error}
        model = self._model
        names = ("version", "needs", "shift", "scale")
        return {**{name: getattr(model, name) for name in names}, "prompts": hasattr(model, "embed_prompts")}

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._model, method)(*arguments)

    def memory_bytes(self) -> int:
        """Resident memory of this process."""
        import psutil

        return int(psutil.Process().memory_info().rss)


class IsolatedReward:
    """Looks like the model, asks the actor. Raises UserError where the environment or the model cannot be used."""

    def __init__(
        self,
        model: str,
        target: str,
        arguments: dict[str, Any],
        environment: str,
        deadline_s: float = 60.0,
        threads: int = 1,
        gpus: float = 0.0,
    ) -> None:
        self.model_name, self._target, self._arguments = model, target, arguments
        self._python, self._deadline_s, self._threads = python_of(environment), deadline_s, threads
        self._gpus = gpus
        self._actor: Any = None
        facts = self._start()
        self.name, self.version = model, str(facts["version"])
        self.needs: frozenset[ClipView] = frozenset(facts["needs"])
        self.shift, self.scale = float(facts["shift"]), float(facts["scale"])
        self.places_prompts = bool(facts["prompts"])

    def score(self, clips: ClipBatch) -> np.ndarray:
        """-> [B] float32. Raises TimeoutError when the process gives no answer in time."""
        return self.ask("score", clips)

    def embed(self, clips: ClipBatch) -> np.ndarray:
        return self.ask("embed", clips)

    def embed_prompts(self, prompts: tuple[str, ...] | list[str]) -> np.ndarray:
        return self.ask("embed_prompts", tuple(prompts))

    def memory_bytes(self) -> int:
        return self._wait(self._actor.memory_bytes.remote(), self._deadline_s)

    def ask(self, method: str, *arguments: Any) -> Any:
        """One call of the model's method in its own process."""
        if self._actor is None:
            self._start()
        return self._wait(self._actor.call.remote(method, *arguments), self._deadline_s)

    def close(self) -> None:
        """Ends the process."""
        import ray

        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)
        self._actor = None

    def _start(self) -> dict[str, Any]:
        import ray

        ensure_ray()
        threads = {"OMP_NUM_THREADS": str(self._threads), "OMP_WAIT_POLICY": "PASSIVE"}
        options = {
            "num_cpus": 0,  # it works while the scorer that asks it waits
            "num_gpus": self._gpus,
            "runtime_env": {"py_executable": self._python, "env_vars": threads},
        }
        actor: Any = ray.remote(Host).options(**options)  # type: ignore[attr-defined]
        self._actor = actor.remote(self._target, self._arguments, self._threads)
        try:
            facts = self._wait(self._actor.facts.remote(), START_S)
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"environment: {self._python} could not start model {self.model_name} ({line})") from None
        if "error" in facts:
            self.close()
            raise UserError(facts["error"])
        return facts

    def _wait(self, reference: Any, deadline_s: float) -> Any:
        """The answer. A lost process, a passed deadline and an alarm of the caller's each end the process."""
        import ray

        give_up = time.monotonic() + deadline_s
        try:
            while not ray.wait([reference], timeout=POLL_S)[0]:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"model {self.model_name}: no answer within {deadline_s:g} s")
            return ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # the model's own error: it lives on
        except BaseException as error:
            self.close()
            if isinstance(error, SystemError) and error.__cause__ is not None:
                raise error.__cause__ from None  # what a signal handler raised inside Ray's own wait
            raise


def python_of(environment: str) -> str:
    """The Python of a virtual environment, or the file itself. Raises UserError."""
    path = Path(environment).expanduser()
    for candidate in (path / "bin" / "python", path):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate.absolute())
    raise UserError(
        f"environment: got {environment!r}, allowed a virtual environment (python -m rewards.environment MODEL DIR)"
    )


def ensure_ray() -> None:
    """A command without a run starts a Ray of its own, which ends with it."""
    import ray

    if not ray.is_initialized():
        from cluster.session import ray_session

        stack = ExitStack()
        stack.enter_context(ray_session())
        atexit.register(stack.close)
