"""A page in a real browser, where nothing may be asked of another host and no script may fail."""

import pytest


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
