"""The report in a real browser: no errors, no requests, clips that play, and a layout that fits a phone."""

import time

import pytest

from evaluation.report import write_report
from tests.browser import CHROMIUM, FLAGS
from tests.report.synthetic_run import make_synthetic_run

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


LOADED = "[...document.querySelectorAll('audio')].every((a) => a.readyState >= 1)"


def wait(page, expression: str) -> None:
    """Until `expression` holds. (The page's own policy forbids the eval that the driver's waiting is made of.)"""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(make_synthetic_run(tmp_path_factory.mktemp("runs") / "synthetic_run"))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, report, request):
    """The loaded report, with everything the browser complained about or asked for."""
    width = getattr(request, "param", 1200)
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(60_000)
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda asked: page.requests.append(asked.url))
    page.goto(report.as_uri())
    yield page
    page.close()


def test_no_complaints_and_no_requests_but_the_page_itself(page, report):
    wait(page, LOADED)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]


def test_every_clip_has_a_length_and_plays_alone(page):
    wait(page, LOADED)
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map((a) => a.duration)")
    assert lengths == pytest.approx([4.0] * 6, abs=0.01)
    for clip in range(6):
        page.evaluate(f"document.querySelectorAll('audio')[{clip}].play()")
        wait(page, f"document.querySelectorAll('audio')[{clip}].currentTime > 0.05")
        playing = page.evaluate("[...document.querySelectorAll('audio')].filter((a) => !a.paused).length")
        assert playing == 1
    assert page.complaints == []


def test_a_click_on_a_picture_plays_from_there(page):
    wait(page, LOADED)
    note = "(event) => { window.soughtS ??= event.target.currentTime }"
    page.evaluate(f"() => {{ document.querySelector('audio').onseeked = {note} }}")
    box = page.locator(".picture").first.bounding_box()
    page.locator(".picture").first.click(position={"x": box["width"] * 0.5, "y": 20})
    wait(page, "window.soughtS !== undefined")
    assert page.evaluate("window.soughtS") == pytest.approx(2.0, abs=0.1)
    wait(page, "document.querySelector('audio').currentTime > 2.2")
    assert page.complaints == []


def test_the_pointer_reads_values_off_a_chart(page):
    chart = page.locator("svg.chart").first
    chart.hover()
    assert "mixture" in page.locator(".reading").first.inner_text()


@pytest.mark.parametrize("page", [360, 768, 1400], indirect=True)
def test_nothing_sticks_out_sideways(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    inner = page.evaluate("[...document.querySelectorAll('.scroll, .card')].map((e) => e.scrollWidth - e.clientWidth)")
    assert max(inner) <= 0


def test_it_reads_without_script(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("svg.chart .line").count() > 8 and page.locator("audio").count() == 6
    context.close()
