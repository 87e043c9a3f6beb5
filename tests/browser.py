"""A real browser for tests: Debian's Chromium without a window, driven by Selenium."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toolbox

# Text whose contrast is below 4.5, as WCAG 2 reckons it.
CONTRAST = """
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
      const [r, g, b] = numbers(colour).slice(0, 3).map((value) => {
        const v = value / 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
      for (; element; element = element.parentElement) {
        const colour = getComputedStyle(element).backgroundColor;
        const alpha = numbers(colour)[3] ?? 1;
        if (alpha > 0.5) return colour;
      }
      return "rgb(255, 255, 255)";
    };
    const low = [];
    for (const element of document.querySelectorAll("main *, header *, footer")) {
      const own = [...element.childNodes].some((n) =>
        n.nodeType === 3 && n.textContent.trim());
      if (!own || !element.checkVisibility() || element.disabled) continue;
      if (element.closest("[aria-hidden]#flash")) continue;
      const a = light(getComputedStyle(element).color), b = light(ground(element));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) low.push(element.tagName + " " + element.textContent + ratio);
    }
    return low;
"""


def chromium() -> str:
    """The browser's command."""
    found = shutil.which("chromium")
    if found is None:
        toolbox.skip_or_fail("chromium is not installed")
    return found


@contextlib.contextmanager
def opened(folder: Path, microphone: Path) -> Iterator[Browser]:
    """A browser.

    Args:
        folder: Gets what pages save.
        microphone: The .wav that its microphone hears, once from when it is opened.
    """
    command = chromium()
    driver = shutil.which("chromedriver")
    if driver is None:
        toolbox.skip_or_fail("chromedriver is not installed")
    selenium = pytest.importorskip("selenium.webdriver")
    options = selenium.ChromeOptions()
    options.binary_location = command
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu"),
        # What a person says when asked, and a microphone where the machine has none.
        *("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream"),
        f"use-file-for-fake-audio-capture={microphone}%noloop",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.accept_insecure_certs = True  # as who goes on at the warning
    saved = {"download.default_directory": str(folder), "download.prompt": False}
    options.add_experimental_option("prefs", saved)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = selenium.Chrome(options, selenium.ChromeService(driver))
    try:
        yield Browser(started, folder)
    finally:
        started.quit()


class Browser:
    """A page, by what a person does with it.

    Args:
        driver: Selenium's.
        folder: Where it puts what pages save.
    """

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, address: str, width: int = 1280, **media: str) -> None:
        """Load a page in a window of that width, with media features."""
        features = {"prefers-color-scheme": "light", "prefers-reduced-motion": ""}
        features |= {key.replace("_", "-"): value for key, value in media.items()}
        table = [{"name": name, "value": value} for name, value in features.items()]
        self.command("Emulation.setEmulatedMedia", features=table)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(address)
        self.driver.get_log("browser")
        self.wait_for("state", lambda text: not text.startswith("Loading"))

    def command(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, parameters)

    def part(self, name: str) -> Any:
        """The element of that id."""
        return self.driver.find_element("id", name)

    def text(self, name: str) -> str:
        return str(self.part(name).text)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns in the page; it may await."""
        body = (
            "const done = arguments[arguments.length - 1];"
            "(async function() {" + script + "}).apply(null, arguments)"
            ".then((value) => done([value]), (error) => done(String(error)))"
        )
        result = self.driver.execute_async_script(body, *arguments)
        assert isinstance(result, list), result
        return result[0]

    def wait_for(
        self, name: str, holds: Callable[[str], bool], limit: float = 60
    ) -> str:
        """Wait until a part's text is as wanted."""
        end = time.monotonic() + limit
        while not holds(text := self.text(name)):
            assert time.monotonic() < end, f"{name} says {text!r}"
            time.sleep(0.05)
        return text

    def hear(self, recording: Path, speed: str = "0") -> None:
        """Choose a recording, and wait until it is heard."""
        self.speed(speed)
        self.part("file").send_keys(str(recording))
        self.wait_for("state", lambda text: text.startswith("Heard all of"))

    def tab(self) -> None:
        """Press the key Tab, wherever the focus is."""
        key = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
        for kind in ("rawKeyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, **key)

    def speed(self, value: str) -> None:
        self.driver.find_element("css selector", f"#speed [value='{value}']").click()

    def events(self) -> list[tuple[float, str, float]]:
        """Seconds, word and score of the page's events, the first one first."""
        rows = self.run(
            "return [...document.querySelectorAll('#events li')].map((row) =>"
            "[...row.children].map((child) => child.textContent))"
        )
        return [
            (float(time.removesuffix(" s")), word, float(score.removeprefix("score ")))
            for time, word, score in reversed(rows)
        ]

    def saved(self, name: str) -> str:
        """A file that the page has just saved, which is taken away."""
        file = self.folder / name
        end = time.monotonic() + 30
        while not file.is_file():
            assert time.monotonic() < end, f"{name} was not saved"
            time.sleep(0.05)
        text = file.read_text("utf-8")
        file.unlink()
        return text

    def complaints(self) -> list[str]:
        """What the browser has written into its console since the page was opened."""
        entries = self.driver.get_log("browser")
        return [json.dumps(entry["message"]) for entry in entries]
