"""No test sees the weights, or the tokens, of the person who runs it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def empty_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the weights, empty; IDENTISIM_HOME and HF_HOME point to it."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("IDENTISIM_HOME", str(folder / "identisim"))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "IDENTISIM_ACCEPT_LICENCE"):
        monkeypatch.delenv(name, raising=False)
    return folder
