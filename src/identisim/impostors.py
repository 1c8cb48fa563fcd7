"""What lies in the place of a file that was to be downloaded."""

from __future__ import annotations

from pathlib import Path


def impostor(path: Path) -> str | None:
    """What stands in the place of weights, judged by the first bytes; None if nothing speaks against them."""
    with path.open("rb") as file:
        start = file.read(512)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML page (a login or error page saved under this name?)"
    if text.startswith((b"version https://git-lfs", b"version https://hawser")):
        return "a git-lfs pointer (`git lfs pull` fetches what it points to)"
    return None
