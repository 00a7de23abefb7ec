"""Tables and figures of one seed: each figure is drawn from the CSV file beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.storage import write_parquet_atomic, write_text_atomic
from evaluation.curve_table import curve_table
from evaluation.data_table import write_csv
from evaluation.figures import draw_accuracy, draw_over_optimisation, draw_reward_against_kl
from evaluation.rating_report import write_standings
from evaluation.ratings import compare_systems
from evaluation.statistics import holm, paired_gain
from feedback.study_accuracy import accuracy_table
from feedback.study_settings import StudySettings
from feedback.study_stages import OVER, SYSTEMS, raters_folder, run_folder

REWARDS = ("quality", "text_adherence", "preference")
HIDDEN = ("simulated_utility", "adherence", "quality")


def write_results(settings: StudySettings) -> None:
    """Everything of this seed that the summary over seeds reads, and the figures."""
    place = settings.results
    place.mkdir(parents=True, exist_ok=True)
    ratings = pq.read_table(raters_folder(settings) / "ratings.parquet")
    write_parquet_atomic(place / "ratings.parquet", ratings)
    write_standings(compare_systems(ratings, list(SYSTEMS)), place)
    write_csv(place / "hidden.csv", hidden_table(pq.read_table(raters_folder(settings) / "heard.parquet")))
    accuracies = write_csv(place / "accuracy.csv", accuracy_table(settings))
    draw_accuracy(accuracies, place / "accuracy.png")
    _curves(settings, place)
    notes = json.loads((settings.folder / "study.json").read_text())
    write_text_atomic(place / "study.json", json.dumps(notes, indent=1) + "\n")


def hidden_table(heard: pa.Table) -> pa.Table:
    """Each system's hidden utility and its parts, over the raters' clips; gain over the base, paired by prompt."""
    rows = []
    for measure in HIDDEN:
        base = _column(heard, "base", measure)
        gains = {name: paired_gain(base, _column(heard, name, measure)) for name in SYSTEMS if name != "base"}
        adjusted = holm({name: gain.p_value for name, gain in gains.items()})
        rows.append({"measure": measure, "system": "base", "mean": float(base.mean()), "clips": len(base)})
        for name, gain in gains.items():
            ends = {"gain": gain.gain.value, "gain_low": gain.gain.low, "gain_high": gain.gain.high}
            rows.append({"measure": measure, "system": name, "mean": gain.after, "clips": gain.n, **ends})
            rows[-1]["p_holm"] = adjusted[name]
    columns = ("measure", "system", "mean", "clips", "gain", "gain_low", "gain_high", "p_holm")
    return pa.table({name: [row.get(name) for row in rows] for name in columns})


def _column(heard: pa.Table, system: str, measure: str):
    return heard.filter(pc.equal(heard["system"], system))[measure].to_numpy()


def _curves(settings: StudySettings, place: Path) -> None:
    """Figures 4 and 5 (rewards against KL) and 7 and 8 (what falls while one reward is driven up)."""
    tuned = {name: run_folder(settings, name) for name in SYSTEMS if name != "base"}
    rewards = curve_table(tuned)
    rewards = rewards.filter(pc.is_in(rewards["judge"], value_set=pa.array(REWARDS)))
    draw_reward_against_kl(write_csv(place / "rewards.csv", rewards), place / "rewards.png")
    if settings.over:
        driven = curve_table({name: run_folder(settings, name) for name in OVER})
        driven = driven.filter(pc.not_equal(driven["judge"], "reward"))
        draw_over_optimisation(write_csv(place / "over_optimisation.csv", driven), place / "over_optimisation.png")
