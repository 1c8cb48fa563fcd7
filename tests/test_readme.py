"""Every command and snippet of the README works as written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line.strip()]
SNIPPETS = [text for kind, text in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README's reader has it: two photos and a folder of photos, one of them broken."""
    folder = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("a.png", "b.png", "photos/1.png", "photos/2.jpg", "photos/3.png"):
        Image.fromarray(rng.integers(0, 255, (96, 120, 3), dtype=np.uint8)).save(folder / name)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    return folder


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_readme_has_what_is_run_here() -> None:
    assert len(COMMANDS) >= 6 and len(SNIPPETS) >= 1
    assert {kind for kind, _ in BLOCKS} == {"console", "python"}


def test_identisim_commands_run_in_order(desk: Path) -> None:
    program = Path(sys.executable).with_name("identisim")
    lines = [shlex.split(line) for line in COMMANDS if line.startswith("identisim ")]
    assert len(lines) >= 4
    for words in lines:
        done = _run([str(program), *words[1:]], desk)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
        assert "Traceback" not in done.stderr
    for made in ("why.png", "hits.png", "gallery/_SUCCESS", "my-world/views.parquet", "results/report.html"):
        assert (desk / made).exists(), made


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet: str, desk: Path) -> None:
    done = _run([sys.executable, "-c", snippet], desk)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", *shlex.split(command)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr


def test_no_other_kind_of_command() -> None:
    assert all(line.split()[0] in ("identisim", "make") for line in COMMANDS)


def test_links_inside_the_project_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
