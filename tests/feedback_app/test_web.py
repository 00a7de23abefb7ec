"""The real app on Ray in a real browser: two clips are heard, a trophy is given, a study is rated; axe finds nothing.

`make test-web`; screenshots go to build/listening/.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from feedback.preference_log import PreferenceLog
from feedback.settings import load_settings
from tests.browser import CHROMIUM, FLAGS
from tests.feedback_app.served_app import ADMIN_TOKEN, ROOT, TINY, ServedApp, new_folder
from tests.feedback_app.small_app import second_policy
from tests.system.tiny_world import TinyWorld

playwright = pytest.importorskip("playwright.sync_api")
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = [
    pytest.mark.web,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}
PICTURES = ROOT / "build" / "listening"
WAIT_S = 120.0


@pytest.fixture(scope="module")
def served(world: TinyWorld) -> Iterator[ServedApp]:
    """On the shipped models where they are, else on random ones; in both cases the clips of a pair differ."""
    folder = new_folder()
    words = ["study.name=trial", "study.count=2", "limits.prompts=1000/minute"]
    if TINY.is_dir():
        words.append(f"study.prompts={TINY / 'prompts' / 'eval.txt'}")
    else:
        words += [
            f"policies=one={world.folder / 'policy'},two={second_policy(world)}",
            f"codec={world.folder / 'codec'}",
            f"prompts.suggestions={world.folder / 'train.txt'}",
            f"study.prompts={world.folder / 'eval.txt'}",
            "seconds=1",
            "heard.at_least_s=0.6",
        ]
    app = ServedApp(folder, words)
    try:
        yield app.start()
        app.stop()
    finally:
        app.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, served: ServedApp) -> Iterator[Callable[..., Any]]:
    """Pages of new listeners; at the end, nothing was complained about and nothing asked for elsewhere."""
    contexts, pages = [], []

    def open_page(path: str = "/", viewport: dict[str, int] = DESKTOP, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=2)
        page = context.new_page()
        page.set_default_timeout(WAIT_S * 1000)
        page.complaints, page.elsewhere = [], []
        page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda asked: page.elsewhere.append(asked.url))
        page.goto(served.url + path)
        contexts.append(context)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.complaints == []
        assert [url for url in page.elsewhere if not url.startswith((served.url, "blob:", "data:"))] == []
    for context in contexts:
        context.close()


def wait(page: Any, expression: str) -> None:
    """Until `expression` holds. (The page's own policy forbids the eval that the driver's waiting is made of.)"""
    deadline = time.monotonic() + WAIT_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(50)


def is_shown(page: Any, view: str) -> None:
    wait(page, f"document.querySelector('.view:not([hidden])')?.id === '{view}'")


def agree(page: Any) -> None:
    wait(page, "document.querySelector('#consent').open")
    page.check("input[value=train]")
    page.click("#agree")


def take_a_suggestion(page: Any) -> None:
    agree(page)
    is_shown(page, "compose")
    page.click("#suggestions button >> nth=0")
    is_shown(page, "pair")


def hear(page: Any, clip: int) -> None:
    page.click(f".clip >> nth={clip} >> .play")
    wait(page, f"document.querySelectorAll('.clip')[{clip}].classList.contains('done')")


def locked(page: Any) -> list[bool]:
    return page.evaluate("[...document.querySelectorAll('#pair .choice')].map((button) => button.disabled)")


def check_accessible(page: Any, name: str) -> None:
    found = axe_playwright.Axe().run(page)
    assert found.violations_count == 0, f"{name}: {found.generate_report()}"


def votes_in(served: ServedApp) -> list[Any]:
    settings = load_settings([f"log.dir={served.folder / 'log'}"])
    with PreferenceLog.open(settings.log_url, settings.audio_dir) as log:
        return list(log.votes())


def test_the_answer_is_locked_until_both_clips_were_heard_and_survives_a_reload(
    visit: Callable[..., Any], served: ServedApp
) -> None:
    page = visit()
    take_a_suggestion(page)
    prompt = page.inner_text("#pair-prompt")
    assert locked(page) == [True] * 4
    page.keyboard.press("1")
    hear(page, 0)
    assert locked(page) == [True] * 4 and page.inner_text("#todo").startswith("Before you answer")
    page.reload()
    is_shown(page, "pair")
    assert page.inner_text("#pair-prompt") == prompt
    wait(page, "document.querySelectorAll('.clip')[0].classList.contains('done')")  # heard before the reload
    assert locked(page) == [True] * 4
    hear(page, 1)
    wait(page, "!document.querySelector('.trophy').disabled")
    assert locked(page) == [False] * 4
    before = len(votes_in(served))
    page.click(".trophy >> nth=1")
    is_shown(page, "thanks")
    assert page.inner_text("#voted") == "You gave the trophy to clip B."
    votes = votes_in(served)
    assert len(votes) == before + 1 and votes[-1].choice.value == "b"
    assert min(votes[-1].played_a.seconds, votes[-1].played_b.seconds) > 0.5
    page.reload()
    is_shown(page, "compose")
    assert len(votes_in(served)) == before + 1


def test_one_clip_plays_at_a_time_and_seeking_does_not_count_as_hearing(visit: Callable[..., Any]) -> None:
    page = visit()
    take_a_suggestion(page)
    page.click(".clip >> nth=0 >> .play")
    wait(page, "document.querySelectorAll('.clip')[0].classList.contains('playing')")
    page.click(".clip >> nth=1 >> .play")
    wait(page, "document.querySelectorAll('.clip')[1].classList.contains('playing')")
    assert page.evaluate("document.querySelectorAll('.clip.playing').length") == 1
    page.click(".clip >> nth=1 >> .play")
    heard = page.inner_text(".clip >> nth=1 >> .left")
    wave = page.locator(".wave >> nth=1")
    box = wave.bounding_box()
    for share in (0.2, 0.9, 0.5, 0.05):  # jumps through the whole clip
        wave.click(position={"x": box["width"] * share, "y": 20})
        page.wait_for_timeout(60)
    assert page.inner_text(".clip >> nth=1 >> .left") == heard
    assert float(wave.get_attribute("aria-valuenow")) < 0.5


def test_nothing_is_chosen_for_a_listener_and_nothing_begins_without_a_choice(visit: Callable[..., Any]) -> None:
    page = visit()
    wait(page, "document.querySelector('#consent').open")
    assert page.evaluate("document.querySelectorAll('#consent input:checked').length") == 0
    page.click("#agree")
    for _ in range(3):
        page.keyboard.press("Escape")
    wait(page, "document.querySelector('#consent').open")
    assert page.evaluate("document.querySelector('.view:not([hidden])')") is None


def test_everything_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    wait(page, "document.querySelector('#consent').open")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    is_shown(page, "compose")
    page.focus("#prompt")
    page.keyboard.type("a lullaby on a music box")
    page.keyboard.press("Enter")
    is_shown(page, "pair")
    assert "lullaby" in page.inner_text("#pair-prompt")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Play clip A"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Position in clip A"
    page.keyboard.press("Space")
    wait(page, "document.querySelectorAll('.clip')[0].classList.contains('done')")
    page.keyboard.press("Space")
    page.keyboard.press("Home")
    assert page.get_attribute(".wave >> nth=0", "aria-valuenow") == "0.0"
    page.keyboard.press("ArrowRight")
    assert page.get_attribute(".wave >> nth=0", "aria-valuenow") == "0.5"
    page.focus(".wave >> nth=1")
    page.keyboard.press("Space")
    wait(page, "!document.querySelector('.trophy').disabled")
    page.keyboard.press("3")
    is_shown(page, "thanks")
    assert "equally good" in page.inner_text("#voted")
    assert page.evaluate("document.activeElement.id") == "thanks-title"
    page.keyboard.press("Enter")  # the next pair
    is_shown(page, "pair")


def test_a_study_is_rated_from_beginning_to_end(visit: Callable[..., Any]) -> None:
    page = visit("/study/trial", viewport=PHONE)
    agree(page)
    is_shown(page, "intro")
    page.click("#start")
    for turn in range(2):
        wait(page, "document.querySelector('.view:not([hidden])')?.id === 'rating'")
        assert f"{turn} of 2 rated" in page.inner_text("#progress")
        assert page.evaluate("[...document.querySelectorAll('.scores')].every((scores) => scores.disabled)")
        hear(page, 0)
        hear(page, 1)
        wait(page, "!document.querySelector('.scores').disabled")
        page.click(".clip >> nth=0 >> label >> nth=3")
        assert page.is_disabled("#save")
        page.focus(".wave >> nth=1")
        page.keyboard.press("2")
        page.screenshot(path=PICTURES / f"study_{turn}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.click("#save")
        wait(page, f"!document.querySelector('#progress').textContent.startsWith('{turn} ')")
    is_shown(page, "done")
    assert "2 pairs" in page.inner_text("#done-text")


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"),
    [
        ("desktop", DESKTOP, "light"),
        ("desktop_dark", DESKTOP, "dark"),
        ("phone", PHONE, "light"),
        ("phone_dark", PHONE, "dark"),
    ],
)
def test_axe_finds_nothing_and_nothing_sticks_out(
    visit: Callable[..., Any], name: str, viewport: dict[str, int], scheme: str
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)

    def look(page: Any, view: str) -> None:
        page.wait_for_timeout(400)  # transitions are over
        page.screenshot(path=PICTURES / f"{view}_{name}.png", full_page=True)
        check_accessible(page, f"{view}, {name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], view

    page = visit(viewport=viewport, scheme=scheme)
    wait(page, "document.querySelector('#consent').open")
    look(page, "consent")
    take_a_suggestion(page)
    look(page, "locked")
    hear(page, 0)
    hear(page, 1)
    wait(page, "!document.querySelector('.trophy').disabled")
    look(page, "open")
    page.click(".choice[data-choice=neither]")
    is_shown(page, "thanks")
    look(page, "thanks")
    page.click("#write")
    is_shown(page, "compose")
    wait(page, "document.querySelectorAll('#suggestions li').length > 0")
    look(page, "compose")

    page = visit("/study/trial", viewport=viewport, scheme=scheme)
    agree(page)
    is_shown(page, "intro")
    look(page, "intro")
    page.click("#start")
    wait(page, "['rating', 'pause', 'done'].includes(document.querySelector('.view:not([hidden])')?.id)")
    look(page, "study")


def test_who_deletes_their_answers_begins_anew(visit: Callable[..., Any], served: ServedApp) -> None:
    page = visit()
    take_a_suggestion(page)
    hear(page, 0)
    hear(page, 1)
    wait(page, "!document.querySelector('.trophy').disabled")
    page.click(".trophy >> nth=0")
    is_shown(page, "thanks")
    before = len(votes_in(served))
    page.click("#open-consent")
    page.click("#delete")
    assert "Yes" in page.inner_text("#delete") and len(votes_in(served)) == before
    with page.expect_navigation():
        page.click("#delete")
    wait(page, "document.querySelector('#consent-title')?.textContent === 'Before you listen'")
    wait(page, "document.querySelector('#consent').open")
    assert len(votes_in(served)) == before - 1


def test_an_answer_waits_for_an_app_that_is_away_and_is_counted_once(
    visit: Callable[..., Any], served: ServedApp
) -> None:
    page = visit()
    take_a_suggestion(page)
    hear(page, 0)
    hear(page, 1)
    wait(page, "!document.querySelector('.trophy').disabled")
    before = len(votes_in(served))
    served.kill()
    page.click(".trophy >> nth=0")
    wait(page, "document.querySelector('#notice').textContent.includes('kept here')")
    assert page.evaluate("JSON.parse(localStorage.outbox).body.choice") == "a"
    served.start()
    is_shown(page, "thanks")
    assert len(votes_in(served)) == before + 1
    page.complaints.clear()  # the browser reports each failed request


def test_the_admin_page(visit: Callable[..., Any]) -> None:
    page = visit("/admin")
    is_shown(page, "login")
    check_accessible(page, "login")
    page.fill("#token", ADMIN_TOKEN)
    page.complaints.clear()  # the browser reports that it was not logged in
    page.click("#login-form button")
    is_shown(page, "figures")
    assert "Votes" in page.inner_text("#counts")
    page.screenshot(path=PICTURES / "admin.png", full_page=True)
    check_accessible(page, "figures")
