"""A reward that does what a clip's prompt says: the failures that a reward model of a user's own can have."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from rewards.port import ClipBatch


class Obedient:
    """The score of a clip is the number that ends its prompt, unless the prompt says how to fail."""

    version = "obedient-1"
    needs = frozenset({"codes"})

    def score(self, clips: ClipBatch) -> np.ndarray:
        orders = {prompt.split()[0] for prompt in clips.prompts}
        if "raise" in orders:
            raise ArithmeticError("this clip\nis beyond me")
        if "hang" in orders:
            _sleep_through_exceptions()
        if "freeze" in orders:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as stuck as in native code
            time.sleep(3600)
        if "die" in orders:
            os.kill(os.getpid(), signal.SIGKILL)
        if "shape" in orders:
            return np.zeros((len(clips), 2), dtype=np.float32)
        scores = np.asarray([float(prompt.split()[-1]) for prompt in clips.prompts], dtype=np.float32)
        scores[["nan" in prompt for prompt in clips.prompts]] = np.nan
        scores[["inf" in prompt for prompt in clips.prompts]] = np.inf
        if "poison" in orders:  # one bad clip spoils its whole batch
            scores[:] = np.nan
        return scores


def _sleep_through_exceptions() -> None:
    try:
        time.sleep(3600)
    except Exception:
        time.sleep(3600)
