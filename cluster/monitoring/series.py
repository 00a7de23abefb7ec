"""Names of series as PromQL selectors; a name that the catalogue does not have is an error when the files are made."""

from __future__ import annotations

from cluster.catalogue import CATALOGUE, LABELS, PREFIX, find_metric

FEEDBACK = PREFIX + "feedback_"  # the listening app's own names


def series(name: str, matchers: str = "") -> str:
    """A plain entry, or a member of a family, of the catalogue. Raises KeyError for an unknown name."""
    find_metric(name)
    return f"{PREFIX}{name}{{{matchers}}}" if matchers else PREFIX + name


def family(name: str, matchers: str = "") -> str:
    """All members of a family such as `reward_NAME`; each has the label `name`, `stage` or `role`.

    Raises KeyError for a family that is not in the catalogue.
    """
    if name not in {metric.name for metric in CATALOGUE if metric.is_family}:
        raise KeyError(f"family {name!r} is not in cluster/catalogue.py")
    part = next(word for word in LABELS if name.endswith(word))
    own = f'__name__=~"{PREFIX}{name.removesuffix(part)}.+",{LABELS[part]}!=""'
    return f"{{{own},{matchers}}}" if matchers else f"{{{own}}}"


def unit_of(name: str) -> str:
    """The catalogue's unit of an entry or a family."""
    return next((metric.unit for metric in CATALOGUE if metric.name == name), None) or find_metric(name).unit


def meaning_of(name: str) -> str:
    """The catalogue's sentence about an entry or a family."""
    return next((metric.meaning for metric in CATALOGUE if metric.name == name), None) or find_metric(name).meaning
