"""The two ways in which a command ends badly, each with its exit status."""

from __future__ import annotations


class UserError(Exception):
    """Input that cannot be used. One line: field, what it got, what it allows. Exit status 2, before anything starts."""

    exit_status = 2


class RunFailed(Exception):
    """A run that started and cannot go on. One line with the cause and the way back. Exit status 1."""

    exit_status = 1
