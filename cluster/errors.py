"""The two ways in which a command ends badly, each with its exit status."""

from __future__ import annotations

from configs.errors import UserError as UserError  # lives there because configs imports nothing; raised everywhere


class RunFailed(Exception):
    """A run that started and cannot go on. One line with the cause and the way back. Exit status 1."""

    exit_status = 1


class PeerMissing(RunFailed):
    """One of several that work together could not go on: another is gone, or did not come in time."""


class Interrupted(Exception):
    """A run was asked to stop, and stopped between two steps or at once."""
