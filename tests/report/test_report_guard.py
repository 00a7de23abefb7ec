"""The report on over-optimisation: banner, marked curves, the proposed checkpoint; quiet where all is well."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.storage import write_parquet_atomic
from evaluation.report import write_report
from evaluation.score_rows import DIVERSITY, FILE_NAME, SECOND_PREFERENCE, read_rows, rows_table, steps_of
from tests.report.synthetic_run import make_synthetic_run

TURNS = {0: 0.0, 50: 0.6, 100: 0.9, 150: 0.7, 200: 0.2, 250: -0.3, 300: -0.8}


def exploited_run(folder: Path, guard: str = "") -> Path:
    """The synthetic run with a second preference model that turns down at step 100, and its checkpoints."""
    run = make_synthetic_run(folder, prompts=32, samples=1, final=False)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + guard)
    noise = np.random.default_rng(0).standard_normal(32)
    tables = [read_rows(run)]
    for step in steps_of(tables[0]):
        fresh = 0.2 * np.random.default_rng(step).standard_normal(32)
        texts, seeds = [f"prompt {i}" for i in range(32)], range(32)
        tables.append(rows_table(step, range(32), texts, seeds, {SECOND_PREFERENCE: TURNS[step] + noise + fresh}, ()))
        tables.append(rows_table(step, range(4), texts[:4], range(4), {DIVERSITY: np.full(4, 0.5 - step / 1000)}, ()))
        (run / "checkpoints" / f"step_{step}").mkdir(parents=True)
        (run / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    write_parquet_atomic(run / FILE_NAME, pa.concat_tables(tables))
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(exploited_run(tmp_path_factory.mktemp("runs") / "run")).read_text()


def test_the_alarm_stands_on_top_and_in_its_section(page):
    banner = re.search(r'<p class="banner alarm">(.*?)</p>', page)
    assert banner and "Alarm at step 150:" in banner[1] and "ended the run" not in banner[1]
    assert re.search(r'Go on with <a href="#guard">step (50|100)</a>', banner[1])
    assert "checkpoints/step_100/policy" in page or "checkpoints/step_50/policy" in page
    assert "second preference model: " in page and "No alarm" not in page


def test_the_curves_carry_the_alarm_and_the_proposal(page):
    assert "<h3>The reward and its guards</h3>" in page and "<h3>Diversity</h3>" in page
    assert len(re.findall(r'<line class="mark alarm"', page)) == len(re.findall(r'<line class="mark keep"', page)) == 2
    assert "alarm at 150" in page


def test_diversity_is_no_judge(page):
    assert "Of 4 held-out judges" in page  # three of the synthetic run, and the second preference model


def test_a_run_that_the_alarm_ended_says_so(tmp_path):
    run = exploited_run(tmp_path / "run", "guard:\n  stop_on_alarm: true\n")
    assert "The alarm ended the run." in write_report(run).read_text()


def test_rules_of_the_run_decide(tmp_path):
    run = exploited_run(tmp_path / "run", "guard:\n  falls_sd: 50\n  judges_sd: 50\n  follow: 0\n  rises_se: 99\n")
    page = write_report(run).read_text()
    assert "No alarm" in page and "Checkpoint to go on with:" in page and "banner alarm" not in page


def test_two_evaluations_are_needed(tmp_path):
    run = make_synthetic_run(tmp_path / "lean", steps=2, every=2, prompts=4, judges=False, samples=1, final=False)
    assert "Checkpoint to go on with" not in write_report(run).read_text()  # none is kept
    (run / FILE_NAME).unlink()
    assert 'id="guard"' not in write_report(run).read_text()
