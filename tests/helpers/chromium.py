"""A Chromium for tests of pages: the one on the PATH or in RLPIPE_CHROMIUM.

Without one the tests are skipped; with RLPIPE_REQUIRE_BROWSER=1, as in CI, that is a failure.
"""

import os
import shutil
from contextlib import contextmanager

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium():
    """Yield a browser of Playwright."""
    required = os.environ.get("RLPIPE_REQUIRE_BROWSER") == "1"
    named = [os.environ.get("RLPIPE_CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))]
    path = next(filter(None, named), None)
    if path is None:
        stop = pytest.fail if required else pytest.skip
        stop("needs Chromium: apt-get install chromium, or its path in RLPIPE_CHROMIUM")
    if not required:
        pytest.importorskip("playwright", reason='needs playwright: pip install "rlpipe[dev]"')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()
