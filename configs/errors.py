"""Input that cannot be used."""

from __future__ import annotations


class UserError(Exception):
    """One line: field, what it got, what it allows. Exit status 2, before anything starts."""

    exit_status = 2
