"""How long a listener waits: from the click in a browser until both clips can be played to their end.

    python -m benchmarks.pair_wait [listeners=10] [key=value of feedback.main ...]

Three waits: right after the start of the app, when no clip exists and the models are still loading; for a description
of one's own, which is always made at once; for a suggestion that the pool holds. Debian: apt-get install chromium.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.listening_app import NO_LIMITS, listening_app

PORT = 18766
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
DESCRIPTION = "a slow waltz on an accordion, with soft strings"
FILL_S, WAIT_S = 60.0, 120.0
POOL = 8
# The page's own Audio objects, watched: when the last button was pressed, when both clips could be played through.
WATCH = """
const Real = Audio;
window.pressedAt = window.playableAt = 0;
let playable = 0;
window.Audio = function () {
  const audio = new Real();
  audio.addEventListener("canplaythrough", () => { if (++playable === 2) window.playableAt = performance.now(); });
  return audio;
};
addEventListener("click", () => { window.pressedAt = performance.now(); playable = 0; window.playableAt = 0; }, true);
"""


def main(arguments: list[str]) -> None:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    listeners = int(given.pop("listeners", "10"))
    words = [*NO_LIMITS, f"pool.pairs={POOL}", *(f"{key}={value}" for key, value in given.items())]
    load, started = os.getloadavg()[0], time.monotonic()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        with listening_app(PORT, words):
            ready_s = time.monotonic() - started
            print("| wait | listeners | median s | slowest s | load before |")
            print("|---|---|---|---|---|")
            show("right after the start, a suggestion", [wait_s(browser, "#suggestions button")], load)
            time.sleep(FILL_S)  # the pool is full and nothing is being made
            for name, button in (("own description", "#prompt-form button"), ("suggestion", "#suggestions button")):
                load = os.getloadavg()[0]
                show(name, [wait_s(browser, button) for _ in range(listeners)], load)
        browser.close()
    print(f"\nready {ready_s:.1f} s after the command; {os.cpu_count()} cores, which also run the browser")


def show(name: str, waits: list[float], load: float) -> None:
    print(f"| {name} | {len(waits)} | {statistics.median(waits):.2f} | {max(waits):.2f} | {load:.1f} |", flush=True)


def wait_s(browser: Browser, button: str) -> float:
    """A new listener comes, agrees, presses `button` -> seconds until both clips are playable."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(f"http://localhost:{PORT}/")
    page.check("input[value=count]")
    page.click("#agree")
    page.wait_for_selector("#suggestions button")
    page.fill("#prompt", DESCRIPTION)
    page.click(f"{button} >> nth=0")
    playable_ms = _until(page, "window.playableAt")
    waited_s = (playable_ms - page.evaluate("window.pressedAt")) / 1000
    context.close()
    return float(waited_s)


def _until(page: Page, expression: str) -> Any:
    """Its first value that is not zero. Raises TimeoutError. (The page's policy forbids the driver's own waiting.)"""
    give_up = time.monotonic() + WAIT_S
    while not (value := page.evaluate(expression)):
        if time.monotonic() > give_up:
            raise TimeoutError(expression)
        page.wait_for_timeout(20)
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
