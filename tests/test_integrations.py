"""Every snippet and command of the page on integrations works as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parent.parent / "docs" / "integrations.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line) for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]


def test_the_page_has_what_is_run_here() -> None:
    assert [kind for kind, _ in BLOCKS].count("python") == 3
    assert {words[0] for words in COMMANDS} == {"identisim", "pip"}
    assert [words for words in COMMANDS if words[0] == "pip"] == [
        ["pip", "install", "identisim[torchmetrics]"]
    ]


@pytest.mark.slow
def test_commands_and_snippets_run_in_order(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / name)
    program = Path(sys.executable).with_name("identisim")
    commands = [[str(program), *words[1:]] for words in COMMANDS if words[0] == "identisim"]
    snippets = [[sys.executable, "-W", "error", "-c", text] for kind, text in BLOCKS if kind == "python"]
    for command in [*commands, *snippets]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), command
    assert (tmp_path / "compact.onnx.json").is_file() and (tmp_path / "compact.pt2").is_file()
