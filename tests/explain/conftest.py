"""A real browser, in which nothing may be asked of another host and no script may fail."""

import os

import pytest

BROWSER = os.environ.get("MINICNN_BROWSER", "/usr/bin/chromium")
REQUIRED = bool(os.environ.get("MINICNN_REQUIRE_BROWSER"))  # as in CI: then nothing is skipped


@pytest.fixture(scope="module")  # other tests count the processes that are left
def browser():
    if not REQUIRED:
        pytest.importorskip("playwright", reason="needs the extra `browser`")
        if not os.path.exists(BROWSER):
            pytest.skip(f"needs a browser, and there is none at {BROWSER}; see MINICNN_BROWSER")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # --no-sandbox, since tests may run as root, which Chromium's sandbox does not allow
        running = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser, tmp_path):
    """A function that opens an explanation as a file: (explanation, size and kind of screen)."""
    contexts, problems = [], []

    def open_page(explanation, **screen):
        path = tmp_path / f"{len(contexts)}.html"
        explanation.save(path)
        options = {"viewport": {"width": 1200, "height": 900}, "locale": "en"} | screen
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on(
            "request", lambda request: request.url == path.as_uri() or problems.append(request.url)
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
