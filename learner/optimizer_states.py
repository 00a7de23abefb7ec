"""learner.optimizer_states: what Adam's moments take, and whether a run can have them short. Loads no torch."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from configs.errors import UserError
from learner.model_folder import MUSICGEN, ModelFolder, MusicGenModelFolder

LIBRARY, LIBRARY_FROM = "bitsandbytes", "0.50"  # the first that updates 8-bit moments on a CPU
BLOCK = 256  # numbers with one scale, of 32 bits
MOMENT_BYTES = {"float32": 4.0, "8bit": 1 + 4 / BLOCK}  # a number of one moment


def check_optimizer_states(states: str, policy: ModelFolder) -> None:
    """Raises UserError where the policy's moments cannot be short, or the library for it is not there."""
    if states == "float32":
        return
    got = f"learner.optimizer_states: got {states}"
    if policy.kind != MUSICGEN:
        raise UserError(f"{got}, allowed float32 with a {policy.kind}")
    if isinstance(policy, MusicGenModelFolder) and policy.shapes.width % BLOCK:
        raise UserError(f"{got}, allowed float32 with a policy of width {policy.shapes.width}, no multiple of {BLOCK}")
    install = "allowed float32, or after: pip install 'musicrl-on-ray[states]'"
    try:
        found = version(LIBRARY)
    except PackageNotFoundError:
        raise UserError(f"{got} without {LIBRARY}; {install}") from None
    if Version(found) < Version(LIBRARY_FROM):
        raise UserError(f"{got} with {LIBRARY} {found}, which is older than {LIBRARY_FROM}; {install}")
