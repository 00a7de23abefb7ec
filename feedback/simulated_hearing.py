"""What limits the preference model: the votes' noise, or what its trunk can hear?

    python -m feedback.simulated_hearing votes=FILE.parquet [key=value ...]

votes: simulated votes (`python -m feedback.simulated_pairs`). The trunk of the policy
stays as it is and is read once; on its pooled states are fitted

- for each measure behind the simulated taste a linear reading: correlation with the measure on held-out clips;
- a head from the votes, as the training's first part does, and the same head from the hidden chance of each answer in
  the place of the vote. The second has no noise to learn from: what it lacks to the limit, the trunk does not tell.

Accuracies are those expected over everyone who might have voted on the held-out pairs. For measuring only.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cluster.errors import UserError
from cluster.session import PROJECT_ROOT
from cluster.storage import write_parquet_atomic
from codec.checkpoint import load_codec
from codec.port import Codec
from configs.command_line import exit_status_of, parse_settings
from configs.setting import meaning_of, setting
from evaluation.statistics import Interval
from feedback.simulated_ceiling import Answers, best_accuracy, rule_accuracy
from feedback.simulated_measures import MEASURES, measure
from feedback.simulated_pair_parts import hidden_path
from feedback.study_accuracy import hidden_of
from policy.checkpoint import load_policy
from rewards.preference_head import fit_to_features, read_features
from rewards.preference_net import POOLINGS, PreferenceNet, PreferenceNetConfig
from rewards.preference_pairs import A, B, PairSet, read_pairs
from rewards.preference_settings import PreferenceSettings
from rewards.preference_split import split_of
from rewards.preference_training import Votes, votes_of

ASSETS = PROJECT_ROOT / "assets/tiny"
PENALTY = 300.0  # of the linear readings' squared weights, on features of unit spread
CODES_AT_ONCE = 64


@dataclass(frozen=True)
class HearingSettings:
    votes: str = setting("", "Parquet file of simulated votes")
    hidden: str = setting("", "the truth behind them; empty: VOTES.hidden.parquet, beside")
    policy: str = setting(str(ASSETS / "policy"), "directory of the policy whose trunk listens")
    codec: str = setting(str(ASSETS / "codec"), "directory of its codec")
    pooling: str = setting("statistics", "over the frames' states", choices=POOLINGS)
    most: int = setting(20000, "votes to learn from", at_least=100)
    held_out: int = setting(4000, "votes to judge by, at most", at_least=50)
    seed: int = setting(0, "of the heads", at_least=0, at_most=2**32 - 1)
    threads: int = setting(1, "of torch", at_least=1)
    out: str = setting("", "Parquet file for the table; empty: printed only")


class Hearing:
    """The frozen trunk's view of some votes, and what can be learnt from it."""

    def __init__(self, settings: HearingSettings) -> None:
        self._settings = settings
        self._policy, self._codec = load_policy(settings.policy), load_codec(settings.codec)
        self._net = self._fresh()
        pairs = read_pairs(settings.votes)
        pairs = pairs.take(pairs.decided)
        self._train = pairs.take(np.flatnonzero(split_of(pairs, "train"))[: settings.most])
        self._held = pairs.take(np.flatnonzero(split_of(pairs, "held_out"))[: settings.held_out])
        if not (len(self._train) and len(self._held)):
            raise UserError(
                f"votes: got {len(self._train)} decided votes to learn from, {len(self._held)} held out, allowed 1 each"
            )
        self._answers = self._hidden(self._held)
        self._votes = self._taken(self._train)
        rng = np.random.default_rng(settings.seed)
        self._features = read_features(self._net, self._votes, 0, rng)  # [P, 2, D]
        self._heard = read_features(self._net, self._taken(self._held), 0, rng)

    def table(self) -> pa.Table:
        """One row a figure: name, kind (accuracy or correlation), value, low, high (of a correlation: nan)."""
        rows = [_row("best possible, listener unknown", best_accuracy(self._answers))]
        rows.append(_row("head from votes", self._accuracy(self._train.choices.astype(np.int64), self._votes.weights)))
        rows.append(_row("head from hidden chances", self._from_chances()))
        rows += [
            {"name": name, "kind": "correlation", "value": value, "low": np.nan, "high": np.nan}
            for name, value in self._readings().items()
        ]
        return pa.Table.from_pylist(rows)

    def _from_chances(self) -> Interval:
        """Every pair twice: as a vote for a and as one for b, each with the weight of its chance."""
        chances = self._hidden(self._train)
        weights = np.concatenate([chances.takes_a, chances.takes_b]) / np.tile(chances.decided, 2)
        choices = np.repeat(np.array([A, B], np.int64), len(self._train))
        return self._accuracy(choices, weights.astype(np.float32), self._features.repeat(2, 1, 1))

    def _accuracy(self, choices: np.ndarray, weights: np.ndarray, features: torch.Tensor | None = None) -> Interval:
        net, seed = self._fresh(), self._settings.seed
        features = self._features if features is None else features
        fit_to_features(net, features, choices, weights, "drop", seed, np.random.default_rng([seed, 1]))
        net.eval()
        with torch.no_grad():
            scores = net.score_features(self._heard).double().numpy()
        return rule_accuracy(self._answers, scores[:, 0], scores[:, 1])

    def _readings(self) -> dict[str, float]:
        """Measure -> correlation of its linear reading, clips a of the votes."""
        known, asked = (features[:, 0].double().numpy() for features in (self._features, self._heard))
        centre, spread = known.mean(0), known.std(0) + 1e-6
        known, asked = (np.c_[(part - centre) / spread, np.ones(len(part))] for part in (known, asked))
        truth, held = (measures_of(self._codec, self._acoustic(pairs)) for pairs in (self._train, self._held))
        weights = np.linalg.solve(known.T @ known + PENALTY * np.eye(known.shape[1]), known.T @ truth)
        found = asked @ weights
        return {name: _correlation(found[:, k], held[:, k]) for k, name in enumerate(MEASURES)}

    def _fresh(self) -> PreferenceNet:
        torch.manual_seed(self._settings.seed)
        return PreferenceNet.from_policy(self._policy, PreferenceNetConfig(pooling=self._settings.pooling))

    def _taken(self, pairs: PairSet) -> Votes:
        return votes_of(pairs, self._net, PreferenceSettings(ties="drop"))

    def _hidden(self, pairs: PairSet) -> Answers:
        return hidden_of(pairs, truth_behind(self._settings))[1]

    def _acoustic(self, pairs: PairSet) -> np.ndarray:
        return pairs.codes_a[:, [k for k, stream in enumerate(self._policy.streams) if stream.kind == "acoustic"]]


def measures_of(codec: Codec, codes: np.ndarray) -> np.ndarray:
    """codes [N, K, T] -> [N, len(MEASURES)], as the simulated listeners hear them."""
    found = []
    for start in range(0, len(codes), CODES_AT_ONCE):
        with torch.inference_mode():
            mel = codec.decode_log_mel(torch.from_numpy(codes[start : start + CODES_AT_ONCE].astype(np.int64)))
        measured = measure(mel.float().numpy())
        found.append(np.stack([measured[name] for name in MEASURES], axis=1))
    return np.concatenate(found)


def truth_behind(settings: HearingSettings) -> Path:
    return Path(settings.hidden) if settings.hidden else hidden_path(Path(settings.votes))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """nan where one of them is the same everywhere."""
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")


def _row(name: str, accuracy: Interval) -> dict[str, object]:
    return {"name": name, "kind": "accuracy", "value": accuracy.value, "low": accuracy.low, "high": accuracy.high}


def _usage() -> str:
    lines = [
        f"  {item.name + '=' + str(item.default):<36} {meaning_of(item)}"
        for item in dataclasses.fields(HearingSettings)
    ]
    return "\n".join([*(__doc__ or "").split("\n\n")[:2], "", *lines])


def _run(words: Sequence[str]) -> int:
    if list(words) == ["help"]:
        print(_usage())
        return 0
    settings = parse_settings(words, HearingSettings())
    if not Path(settings.votes).is_file():
        raise UserError(f"votes: got {settings.votes!r}, allowed a Parquet file of simulated votes")
    if not truth_behind(settings).is_file():
        raise UserError(f"hidden: got {truth_behind(settings)}, allowed the file of what lay behind the votes")
    torch.set_num_threads(settings.threads)
    table = Hearing(settings).table()
    for row in table.to_pylist():
        bounds = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if row["kind"] == "accuracy" else ""
        value = f"{100 * row['value']:.1f} %" if row["kind"] == "accuracy" else f"r {row['value']:.2f}"
        print(f"{row['name']:<34} {value}{bounds}")
    if settings.out:
        write_parquet_atomic(Path(settings.out), table)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: _run(sys.argv[1:])))
