"""Where weights lie on this machine: the cache, what is in it, and what is known of each file. Never the network."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote

from identisim.errors import InputError
from identisim.records import file_sha256, read_json, write_json
from identisim.sources import HUB, RemoteFile, Source

MANIFEST: Final = ".identisim.json"
"""File in each folder of weights: url, size, time and sha256 of its files, and the licence that was accepted."""

_HUB_FILE = re.compile(re.escape(HUB) + r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def home() -> Path:
    """Folder of all weights: IDENTISIM_HOME, or `identisim` in the cache folder of this system's user.

    Linux: $XDG_CACHE_HOME or ~/.cache; macOS: ~/Library/Caches; Windows: %LOCALAPPDATA%. Raises InputError when
    none of them is known.
    """
    if chosen := os.environ.get("IDENTISIM_HOME"):
        return Path(os.path.expanduser(chosen)).absolute()  # noqa: PTH111 (Path.expanduser raises without a home)
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "identisim"
    if sys.platform not in ("win32", "darwin") and (caches := _absolute("XDG_CACHE_HOME")):
        return caches / "identisim"
    try:
        user = Path.home()
    except RuntimeError as error:
        raise InputError(
            "no folder for weights: this user has no home folder; set IDENTISIM_HOME to a folder"
        ) from error
    caches = user / "Library" / "Caches" if sys.platform == "darwin" else user / ".cache"
    return caches / "identisim"


def offline() -> str | None:
    """Name of the environment variable that forbids all network calls, None when they are allowed."""
    switches = ("IDENTISIM_OFFLINE", "HF_HUB_OFFLINE")
    return next((name for name in switches if is_on(name)), None)


def is_on(variable: str) -> bool:
    """Whether an environment variable is set to 1, true, yes or on."""
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "yes", "on")


def locate(source: Source) -> Path | None:
    """Folder on this machine that holds every file of the source, None when there is none.

    Looked for in the cache of identisim, then in that of the Hugging Face hub (a complete snapshot).
    """
    return next((folder for folder in _places(source) if not missing(source, folder)), None)


def present(sources: Iterable[Source]) -> bool:
    """Whether every file of every source lies on this machine."""
    return all(locate(source) is not None for source in sources)


def missing(source: Source, folder: Path) -> list[RemoteFile]:
    """Files of the source that the folder lacks, or holds in another version: other size, other sha256 noted.

    None when it holds one of the source's alternatives instead.
    """
    if any((folder / name).is_file() for name in source.alternatives):
        return []
    return [file for file in source.files if not _holds(folder, file)]


def names(file: RemoteFile) -> tuple[str, ...]:
    """What a published file leaves in the folder: itself, or the members of an archive."""
    return tuple(name for _, name in file.members) or (file.name,)


def _holds(folder: Path, file: RemoteFile) -> bool:
    if file.members:
        return all((folder / name).is_file() for name in names(file))
    path = folder / file.name
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    noted = _noted_sha256(folder, path)
    return noted is None or file.sha256 is None or noted.startswith(file.sha256.lower())


def _places(source: Source) -> Iterator[Path]:
    # a user without a home folder can still run what needs no weights
    with suppress(InputError):
        yield home() / source.folder
    if (snapshot := _snapshot(source)) is not None:
        yield snapshot


def huggingface_home() -> Path:
    """Where the libraries of Hugging Face keep their token and, in `hub`, what they downloaded."""
    caches = _absolute("XDG_CACHE_HOME") or _expanded("~/.cache")
    chosen = os.environ.get("HF_HOME")
    return _expanded(chosen) if chosen else caches / "huggingface"


def _snapshot(source: Source) -> Path | None:
    """Folder of this source in the cache of the Hugging Face hub: models--OWNER--NAME/snapshots/COMMIT."""
    found = [_HUB_FILE.fullmatch(unquote(file.url)) for file in source.files]
    named = {(m[1], m[2]) for m, file in zip(found, source.files, strict=True) if m and m[3] == file.name}
    if None in found or len(named) != 1:
        return None
    repository, revision = named.pop()
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    cache = _expanded(chosen) if chosen else huggingface_home() / "hub"
    folder = cache / f"models--{repository.replace('/', '--')}"
    if not _COMMIT.fullmatch(revision):
        try:
            revision = (folder / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    return folder / "snapshots" / revision if _COMMIT.fullmatch(revision) else None


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file, 64 hex digits.

    What was computed while downloading is believed as long as size and time of change are those of then;
    otherwise the file is read. Raises InputError when it is missing.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights file (or not a regular one); download it or correct the path"
        )
    folder = next((parent for parent in path.parents if (parent / MANIFEST).is_file()), None)
    noted = None if folder is None else _noted_sha256(folder, path)
    return noted or file_sha256(path)


def _noted_sha256(folder: Path, path: Path) -> str | None:
    """What the manifest of the folder says of a file, None where the file was changed since or is not in it."""
    entry, status = read_manifest(folder)["files"].get(path.relative_to(folder).as_posix()), path.stat()
    if not isinstance(entry, dict):
        return None
    unchanged = (entry.get("size"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
    noted = entry.get("sha256")
    return noted if unchanged and isinstance(noted, str) and noted else None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is known of a folder of weights; nothing when the manifest is missing or damaged, as it only saves time."""
    try:
        content = read_json(folder / MANIFEST)
    except InputError:
        content = {}
    files = content.get("files") if isinstance(content, dict) else None
    licence = content.get("licence_accepted") if isinstance(content, dict) else None
    return {"licence_accepted": licence, "files": files if isinstance(files, dict) else {}}


def remember_file(folder: Path, name: str, *, url: str, sha256: str) -> None:
    """Note in the manifest what a finished file is."""
    manifest, status = read_manifest(folder), (folder / name).stat()
    manifest["files"][name] = {
        "url": url,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256,
    }
    write_json(folder / MANIFEST, manifest)


def remember_licence(folder: Path, licence: str) -> None:
    """Note in the manifest that the user accepted this licence."""
    write_json(folder / MANIFEST, read_manifest(folder) | {"licence_accepted": licence})


def licence_accepted(folder: Path, licence: str) -> bool:
    """Whether the user accepted this licence for the weights of a folder, or all by IDENTISIM_ACCEPT_LICENCE=1."""
    return is_on("IDENTISIM_ACCEPT_LICENCE") or read_manifest(folder)["licence_accepted"] == licence


def below(folder: Path, name: str) -> Path:
    """Path of a file below a folder; InputError for a name that leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        raise InputError(
            f"{name!r}: expected a path below {folder}; the description of these weights is wrong"
        )
    return folder.joinpath(*parts)


def readable_size(size: int | None) -> str:
    """Bytes for people, such as "346 MB"."""
    if size is None:
        return "size unknown"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"


def _absolute(variable: str) -> Path | None:
    """Folder that a variable names; a relative one counts as unset, as the XDG specification wants."""
    value = os.environ.get(variable)
    return Path(value) if value and Path(value).is_absolute() else None


def _expanded(path: str) -> Path:
    # unlike Path.expanduser, these leave what they cannot expand as it is
    return Path(os.path.expandvars(os.path.expanduser(path)))  # noqa: PTH111
