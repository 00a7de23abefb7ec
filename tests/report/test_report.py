"""The report's content, without a browser: what is said, what is left out, and that nothing is asked of the network."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from evaluation.charts import Line, line_chart, nice_ticks, running_mean
from evaluation.picture import heat_palette, indexed_png
from evaluation.report import write_report
from evaluation.run_data import read_run
from tests.report.synthetic_run import PROMPTS, make_synthetic_run


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(make_synthetic_run(tmp_path_factory.mktemp("runs") / "synthetic_run")).read_text()


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_every_section_is_there(page):
    ids = [attributes.get("id") for attributes in Tags(page).of("section")]
    assert ids == ["result", "real", "clips", "curves", "judges", "guard", "time", "config"]
    for title in ("Reward", "KL per clip", "Entropy", "Value loss", "Staleness", "Gain against KL", "Tempo"):
        assert f"<h3>{title}</h3>" in page


def test_nothing_is_loaded_from_anywhere(page):
    for _, attributes in Tags(page).found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#")), value[:80]
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_clips_of_the_same_prompts_stand_side_by_side(page):
    sounds, pictures = Tags(page).of("audio"), Tags(page).of("img")
    assert [a["aria-label"] for a in sounds[:2]] == [f"Before: {PROMPTS[0]}", f"After: {PROMPTS[0]}"]
    assert len(sounds) == len(pictures) == 6 and all(picture["alt"] for picture in pictures)


def test_headline_comes_from_the_final_evaluation(page):
    assert "same 256 prompts" in page
    assert re.search(r"The reward rose by \+0\.\d\d standard deviations", page)
    assert "Of 3 held-out judges, 2 rise and none falls." in page
    assert "It went 17.6 nats from its reference for that, per clip of 4 s." in page


def test_prompts_are_escaped(tmp_path):
    page = write_report(make_synthetic_run(tmp_path / "synthetic_run", samples=4)).read_text()
    assert "&lt;brass&gt;" in page and "<brass>" not in page


def test_a_run_of_two_steps_without_judges(tmp_path):
    run = make_synthetic_run(tmp_path / "lean", steps=2, every=2, prompts=4, judges=False, samples=1, final=False)
    page = write_report(run).read_text()
    assert "same 4 prompts" in page and "too few" in page and "Held out" not in page
    assert "Gain against KL" in page


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "config.yaml").write_text("preset: tiny_r\nlearner:\n  steps: 10\n")
    page = write_report(tmp_path).read_text()
    assert "has not reached its last step" in page and "Nothing to compare yet" in page
    assert not Tags(page).of("audio")


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1]),
        (-0.3, 1.2, [-0.5, 0, 0.5, 1, 1.5]),
        (3.0, 3.0, [2.6, 2.8, 3.0, 3.2, 3.4]),
        (0.0, 0.0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_data(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_running_mean_equals_the_loop():
    y = np.random.default_rng(0).normal(size=23)
    slow = [y[max(0, i - 2) : i + 3].mean() for i in range(23)]
    assert running_mean(y, 5) == pytest.approx(slow)


def test_a_curve_with_gaps_and_thousands_of_steps_stays_small():
    steps = np.arange(20_000.0)
    values = np.where(steps % 7 == 0, np.nan, steps)
    chart = line_chart("Long", [Line("long", steps, values), Line("empty", steps, np.full(20_000, np.nan))])
    assert chart is not None and len(chart.svg) < 30_000 and "nan" not in chart.svg and chart.labels == ()
    assert line_chart("None", [Line("empty", steps, np.full(20_000, np.nan))]) is None


def test_png_is_what_another_reader_sees(tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 200)).astype(np.uint8)
    (tmp_path / "picture.png").write_bytes(indexed_png(pixels, heat_palette()))
    with image.open(tmp_path / "picture.png") as read:
        assert np.array_equal(np.asarray(read.convert("RGB")), heat_palette()[pixels])


def test_the_stages_of_the_ledger_add_up_without_their_own_sum(tmp_path):
    run = read_run(make_synthetic_run(tmp_path / "run"))
    stages = run.stage_seconds()
    assert "step" not in stages
    assert sum(values.sum() for values in stages.values()) == pytest.approx(run.metrics["seconds_step"].sum())
