"""A real headless Chromium for pages that were made."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")


class Opened(NamedTuple):
    """A page that was opened, and what happened meanwhile."""

    page: Any  # playwright's
    complaints: list[str]  # console errors and warnings, uncaught exceptions
    requests: list[str]  # of anything but the page itself and data URIs


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Skips where there is no browser: `make test` downloads none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser found (one of {', '.join(_NAMES)}, or the variable CHROMIUM)")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Opened]:
    """Open a file without network; `context` as of playwright's `new_context`."""
    tab = browser.new_context(offline=True, **context)
    page, complaints, requests = tab.new_page(), [], []
    page.on(
        "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: requests.append(r.url))
    page.goto(path.resolve().as_uri())
    own = path.resolve().as_uri()
    requests[:] = [url for url in requests if url != own and not url.startswith("data:")]
    yield Opened(page, complaints, requests)
    tab.close()


def assert_shown(tab: Opened, *, figures: int) -> None:
    """Nothing was complained about or loaded, and pictures and at least so many figures show."""
    assert tab.complaints == []
    assert tab.requests == []
    widths = tab.page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
    assert min(widths) > 100
    drawn = tab.page.eval_on_selector_all(
        "figure > svg", "all => all.map(s => s.getBoundingClientRect().height)"
    )
    assert len(drawn) >= figures
    assert min(drawn) > 80
