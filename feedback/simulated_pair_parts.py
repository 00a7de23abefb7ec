"""The work behind `feedback.simulated_pairs`: parts of some hundred pairs, each written whole, joined at the end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cluster.errors import UserError
from cluster.storage import write_parquet_atomic, write_text_atomic
from configs.prompts import load_prompts
from feedback.simulated_ceiling import expected_answers, group_members
from feedback.simulated_clips import ClipPairs, PairSource, hear_pairs
from feedback.simulated_ear import SimulatedEar
from feedback.simulated_pairs import MAX_PROMPT_CHARS, PairSettings, stated
from feedback.simulated_panel import KIND, Duel, cast_votes, draw_panel, duel
from feedback.simulated_parameters import load_parameters
from feedback.simulated_utility import Heard, group_utility, population_utility
from policy.port import SamplingSettings
from rewards.preference_pairs import SCHEMA

PART_PAIRS = 256
BATCH_PAIRS = 32
FIRST_VOTE = datetime(2024, 1, 1, tzinfo=UTC)  # simulated votes carry a simulated time: a second apart


class PairParts:
    """One table in the making. `complete` makes what is missing, in this process or in several."""

    def __init__(self, settings: PairSettings) -> None:
        self.settings = settings
        self.out = Path(settings.out)
        self.folder = self.out.with_suffix(".parts")
        self.count = -(-settings.pairs // PART_PAIRS)

    def complete(self) -> Path:
        """-> the table. Raises UserError where another table's parts, or another table, are in the way."""
        self._claim()
        if not self.out.exists():
            self._make_missing()
            for hidden in (True, False):  # the table last: where it is, all is there
                parts = [pq.read_table(self.part(number, hidden)) for number in range(self.count)]
                write_parquet_atomic(hidden_path(self.out) if hidden else self.out, pa.concat_tables(parts))
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.out

    def part(self, number: int, hidden: bool) -> Path:
        return self.folder / f"{'hidden' if hidden else 'pairs'}_{number:05d}.parquet"

    def _claim(self) -> None:
        """Notes the settings beside the table; what is there must have been made with the same ones."""
        note, text = self.out.with_suffix(".json"), json.dumps(self._stated(), indent=1) + "\n"
        if note.exists() and note.read_text() != text and (self.out.exists() or self.folder.exists()):
            raise UserError(
                f"out: {self.out} was begun with other settings ({note}), allowed the same or another place"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(note, text)

    def _stated(self) -> dict[str, str]:
        listeners = hashlib.sha256(Path(self.settings.listeners).read_bytes()).hexdigest()[:12]
        return {**stated(self.settings), "listeners": listeners}

    def _make_missing(self) -> None:
        missing = [number for number in range(self.count) if not self.part(number, False).exists()]
        started = time.monotonic()
        for done, _ in enumerate(self._made(missing), start=1):
            left_s = (time.monotonic() - started) / done * (len(missing) - done)
            ready = min(self.settings.pairs, (self.count - len(missing) + done) * PART_PAIRS)
            print(f"simulated pairs: {ready} of {self.settings.pairs}, {left_s:.0f} s left", flush=True)

    def _made(self, missing: list[int]) -> Iterator[object]:
        """One item for each part that has been written."""
        if self.settings.workers == 1 or len(missing) < 2:
            workshop = Workshop(self.settings)
            yield from (workshop.write(number) for number in missing)
            return
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(self.settings.workers, context, _open_workshop, (self.settings,)) as pool:
            yield from as_completed([pool.submit(_write_part, number) for number in missing])


def hidden_path(pairs: str | Path) -> Path:
    """Where the truth behind a table of pairs lies."""
    return Path(pairs).with_suffix(".hidden.parquet")


class Workshop:
    """Everything that makes a part, loaded once in each process."""

    def __init__(self, settings: PairSettings) -> None:
        torch.set_num_threads(1)
        self.settings = settings
        self.parameters = load_parameters(settings.listeners)
        self.noise = self.parameters.noise_of(settings.agreement)
        self.ear = SimulatedEar.load(self.parameters.ear)
        self.panel = draw_panel(self.parameters, settings.panel)
        self.parts = PairParts(settings)
        prompts = load_prompts(settings.prompts, "", MAX_PROMPT_CHARS, "prompts")
        sampling = SamplingSettings(settings.temperature, 1.0)
        self.source = PairSource(
            settings.policy,
            settings.codec,
            prompts,
            sampling,
            settings.seconds,
            settings.seed,
            settings.other,
            settings.other_share,
        )

    def write(self, number: int) -> int:
        """Part `number`, the hidden side first: where the pairs are, both are."""
        first = number * PART_PAIRS
        numbers = range(first, min(first + PART_PAIRS, self.settings.pairs))
        votes, hidden = [], []
        for start, pairs in zip(numbers[::BATCH_PAIRS], self.source.pairs(numbers, BATCH_PAIRS), strict=True):
            whole, prefix = hear_pairs(self.ear, pairs, self.parameters)
            fight = duel(self.panel, whole, prefix)
            votes.append(self._votes(pairs, fight, start))
            hidden.append(self._hidden(whole, fight, votes[-1]["vote_id"]))
        write_parquet_atomic(self.parts.part(number, True), pa.concat_tables(hidden))
        write_parquet_atomic(self.parts.part(number, False), pa.concat_tables(votes))
        return number

    def _votes(self, pairs: ClipPairs, fight: Duel, first: int) -> pa.Table:
        rng = np.random.default_rng((self.settings.seed, 77, first))
        cast = cast_votes(fight, self.noise, self.source.seconds, rng)
        policies = [[f"{version}@{self.settings.temperature:g}" for version in side] for side in pairs.versions.T]
        numbers = range(first, first + len(pairs))
        names, groups = self.panel.names, self.panel.groups
        columns = {
            "vote_id": [f"simulated-{self.settings.seed}-{self.settings.panel}-{i:06d}" for i in numbers],
            "prompt": list(pairs.prompts),
            "codes_a": pairs.codes[:, 0].tolist(),
            "codes_b": pairs.codes[:, 1].tolist(),
            "choice": [choice.value for choice in cast.choice],
            "listener": [names[i] for i in cast.listener],
            "listener_kind": [KIND.value] * len(pairs),
            "group": [groups[i] for i in cast.listener],
            "policy_a": policies[0],
            "policy_b": policies[1],
            "seed_a": pairs.seeds[:, 0],
            "seed_b": pairs.seeds[:, 1],
            "heard_a_s": cast.heard_a_s.astype(np.float32),
            "heard_b_s": cast.heard_b_s.astype(np.float32),
            "seconds": np.full(len(pairs), self.source.seconds, np.float32),
            "voted_at": [FIRST_VOTE + timedelta(seconds=i) for i in numbers],
        }
        return pa.table(columns, schema=SCHEMA)

    def _hidden(self, whole: tuple[Heard, Heard], fight: Duel, vote_ids: pa.ChunkedArray) -> pa.Table:
        """The truth behind each vote: utilities, parts, and how listeners who may count would answer."""
        columns: dict[str, object] = {"vote_id": vote_ids}
        for side, heard in zip("ab", whole, strict=True):
            columns[f"utility_{side}"] = population_utility(heard, self.parameters)
            for group in self.parameters.groups:
                columns[f"utility_{group.name}_{side}"] = group_utility(heard, group, self.parameters)
            columns[f"adherence_{side}"], columns[f"quality_{side}"] = heard.adherence, heard.quality
        counted = ~self.panel.plays_little
        columns |= _answer_columns("", fight, self.noise, counted)
        for group in self.parameters.groups:
            columns |= _answer_columns(f"{group.name}_", fight, self.noise, group_members(self.panel, group.name))
        return pa.table(columns)


def _answer_columns(prefix: str, fight: Duel, noise: float, members: np.ndarray) -> dict[str, np.ndarray]:
    answers = expected_answers(fight, noise, members)
    return {f"{prefix}takes_a": answers.takes_a, f"{prefix}takes_b": answers.takes_b} | (
        {} if prefix else {"best_known": answers.best_known}
    )


_workshops: list[Workshop] = []  # of a worker process: exactly one


def _open_workshop(settings: PairSettings) -> None:
    _workshops.append(Workshop(settings))


def _write_part(number: int) -> int:
    return _workshops[0].write(number)
