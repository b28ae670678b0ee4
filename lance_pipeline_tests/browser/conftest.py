"""A real browser, and real servers for it to visit."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from lance_pipeline_tests.browser.launcher import Launcher
from lance_pipeline_tests.small_project import write_small_project

PICTURES = os.environ.get("LANCE_PIPELINE_SCREENSHOTS")
HOSTILE = "hostile.example"
"""An attacker's name that leads to this host, in the browser only."""
TUNNEL, PROXY = "Tunnel.example:8888", "proxy.example"
"""Additional names that the UI is configured to answer."""
_PICTURES_DATA = os.environ.get("LANCE_PIPELINE_SCREENSHOT_DATA")
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
_MILLISECONDS = 90_000
# A dataset whose training takes long enough to be stopped.
_SLOW = """\
type: lance_pipeline.ImageClassifier
attributes:
  source: {folder: images/flowers}
  image_size: 32
  recipe: {epochs: 2000, batch_size: 8, weights: none}
"""
_LARGEST_PICTURE, _WIDEST_PICTURE = 200_000, 1500


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; not for the whole session, as Playwright's event loop would disturb other tests."""
    executable = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if executable is None:
        missing = f"none of {', '.join(_BROWSERS)} is installed. To run this test: sudo apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    names = f"MAP {HOSTILE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    arguments = [*_ARGUMENTS.split(), f"--host-resolver-rules={names}"]
    if os.getuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def ui(
    browser: Browser, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launcher]:
    """The UI of this project and the small one; for pictures, with the demo's data."""
    folder = tmp_path_factory.mktemp("ui")
    data = folder / "data"
    if PICTURES:
        shutil.copytree(_PICTURES_DATA or request.getfixturevalue("demo").shell.data, data)
    workspace = write_small_project(folder / "project")
    slow = folder / "project" / "small" / "defs" / "slow" / "defs.yaml"
    slow.parent.mkdir()
    slow.write_text(_SLOW)
    options, variables = ["--allow-host", TUNNEL], {"LANCE_PIPELINE_UI_HOSTS": f"{PROXY}, "}
    with Launcher(folder / "elsewhere", data, workspace, options=options, variables=variables) as launcher:
        launcher.await_ready()
        yield launcher
    assert launcher.process.returncode == 0, launcher.output


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile with a light theme."""
    context = browser.new_context(
        viewport={"width": 1400, "height": 900},
        color_scheme="light",
        locale="en-GB",
        timezone_id="Europe/Berlin",
    )
    context.set_default_timeout(_MILLISECONDS)
    expect.set_options(timeout=_MILLISECONDS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """An empty page."""
    page = context.new_page()
    yield page
    for opened in context.pages:
        opened.close()


def save_picture(name: str, png: bytes) -> None:
    """Save a picture for the README, with fewer colours, and smaller if it would still be too large."""
    assert PICTURES
    folder = Path(PICTURES)
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.width <= _WIDEST_PICTURE
    picture.save(folder / name, optimize=True)
    for share in (1, 0.9, 0.8, 0.7):
        if (folder / name).stat().st_size <= _LARGEST_PICTURE:
            return
        size = round(picture.width * share), round(picture.height * share)
        # Unlike the default method, this one preserves the colours of small icons.
        few = picture.resize(size).quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(folder / name, optimize=True)
    assert (folder / name).stat().st_size <= _LARGEST_PICTURE, name
