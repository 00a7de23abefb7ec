"""The figures of the admin page, from one moment of the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from feedback.preference_log import PreferenceLog
from feedback.records import Choice, Counts, Pair, Rating


class Tally(NamedTuple):
    """A policy against the others, in pairs of different ones; "neither" is no comparison."""

    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Summary:
    counts: Counts
    choices: dict[str, int]
    agreeing: int  # of `compared` pairs of answers to the same pair by two listeners: both prefer the same clip
    compared: int
    tallies: dict[str, Tally]
    study_raters: dict[int, int] = field(default_factory=dict)  # raters -> pairs (both orders together) that have them
    study_scores: dict[str, list[int]] = field(default_factory=dict)  # policy -> its marks, in the order of rating


def summarise(log: PreferenceLog, study: str = "") -> Summary:
    """Reads every vote, and every rating of `study`."""
    with log.snapshot() as reader:
        policies = {clip.clip_id: clip.policy for clip in reader.clips()}
        pairs = {pair.pair_id: pair for pair in reader.pairs()}
        votes = [(vote.pair_id, vote.choice) for vote in reader.votes(study="")]
        raters, scores = _ratings(reader.ratings(study=study), pairs, policies) if study else ({}, {})
        counts = reader.counts()
    agreeing, compared = agreement(votes)
    return Summary(
        counts=counts,
        choices=dict(Counter(choice.value for _, choice in votes)),
        agreeing=agreeing,
        compared=compared,
        tallies=_tallies(votes, pairs, policies),
        study_raters=raters,
        study_scores=scores,
    )


def agreement(votes: Iterable[tuple[str, Choice]]) -> tuple[int, int]:
    """(pair, choice) of each vote -> how many two answers to one pair agree, and how many there are.

    Only trophies: as in the paper, agreement is that of preferences, and a tie is none.
    """
    trophies: dict[str, list[Choice]] = defaultdict(list)
    for pair_id, choice in votes:
        if choice in (Choice.A, Choice.B):
            trophies[pair_id].append(choice)
    both = [one == other for choices in trophies.values() for one, other in combinations(choices, 2)]
    return sum(both), len(both)


def _ratings(
    ratings: Iterable[Rating], pairs: Mapping[str, Pair], policies: Mapping[str, str]
) -> tuple[dict[int, int], dict[str, list[int]]]:
    """-> how many items have how many raters, and each policy's marks."""
    raters: Counter[frozenset[str]] = Counter()
    scores: dict[str, list[int]] = defaultdict(list)
    for rating in ratings:
        pair = pairs[rating.pair_id]
        raters[frozenset((pair.clip_a, pair.clip_b))] += 1
        scores[policies[pair.clip_a]].append(rating.score_a)
        scores[policies[pair.clip_b]].append(rating.score_b)
    return dict(Counter(raters.values())), dict(scores)


def _tallies(
    votes: Iterable[tuple[str, Choice]], pairs: Mapping[str, Pair], policies: Mapping[str, str]
) -> dict[str, Tally]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for pair_id, choice in votes:
        names = [policies[clip_id] for clip_id in (pairs[pair_id].clip_a, pairs[pair_id].clip_b)]
        if names[0] == names[1] or choice is Choice.NEITHER:
            continue
        for name, own, other in ((names[0], Choice.A, Choice.B), (names[1], Choice.B, Choice.A)):
            found[name][{own: "wins", other: "losses"}.get(choice, "ties")] += 1
    return {name: Tally(each["wins"], each["losses"], each["ties"]) for name, each in sorted(found.items())}
