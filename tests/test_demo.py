"""The tour: it runs, and its page stands alone."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from identisim.demo.tour import METRICS, make_tour

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tour(tmp_path_factory.mktemp("tour"), identities=4, size=64)


class Sources(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_is_self_contained_and_complete(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    page = Sources()
    page.feed(text)
    assert len(page.found) == 9  # three pairs, two explanations, one sheet
    assert all(source.startswith("data:image/png;base64,") for source in page.found)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(name in text for name in METRICS)


def test_the_tour_goes_on_where_it_was(report: Path) -> None:
    made = (report.parent / "gallery" / "gallery.json").stat().st_mtime_ns
    before = report.read_bytes()
    assert make_tour(report.parent, identities=4, size=64).read_bytes() == before
    assert (report.parent / "gallery" / "gallery.json").stat().st_mtime_ns == made


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize(("width", "height"), [(1280, 2400), (390, 2400)])
def test_the_page_shows_in_a_browser(report: Path, tmp_path: Path, width: int, height: int) -> None:
    shot = tmp_path / "page.png"
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    )
    done = subprocess.run(
        [str(CHROMIUM), *options.split(), "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={width},{height}", f"--screenshot={shot}", report.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[1] == width
    # text and pictures on white: neither blank nor full
    assert 0.02 < (pixels.min(axis=-1) < 250).mean() < 0.9
