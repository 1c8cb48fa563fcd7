"""Where published weights come from: files, licence, access. Facts only; `downloads` fetches them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HUB: Final = "https://huggingface.co"


@dataclass(frozen=True)
class RemoteFile:
    """One file that somebody publishes.

    name: its path below the folder of its source. url: where it is fetched from, "" when no program may and the user
    must bring it. size: bytes, None when not known.
    sha256: 64 hex digits, or as many of the first ones as the publisher states (PyTorch's file names carry 8), or None
    when nothing is stated. members: what to take out when the file is a zip archive, as {path in the archive: name
    below the folder}; the archive itself is not kept then.
    """

    name: str
    url: str
    sha256: str | None = None
    size: int | None = None
    members: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Source:
    """One set of weights, complete in one folder.

    folder: below the cache, such as "facebook/dinov2-base". licence: of the weights. page: where one reads the licence
    and asks for access. gated: whether the owner lets one in only on request. commercial: whether the licence allows
    commercial use; what it forbids needs `--accept-licence`. instead: a metric without these hurdles, "" for none.
    alternatives: names of other files, each of which serves in place of all, where a user has brought it.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    licence: str
    page: str
    gated: bool = False
    commercial: bool = True
    instead: str = ""
    alternatives: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """Bytes of all files, None when one of them is not known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


def hub_source(
    repository: str,
    files: dict[str, int | None],
    *,
    licence: str,
    gated: bool = False,
    commercial: bool = True,
    instead: str = "",
    alternatives: tuple[str, ...] = (),
    revision: str = "main",
) -> Source:
    """Source on the Hugging Face hub. files: name -> bytes, None when not known."""
    remote = tuple(
        RemoteFile(name, f"{HUB}/{repository}/resolve/{revision}/{name}", size=size)
        for name, size in files.items()
    )
    page = f"{HUB}/{repository}"
    return Source(
        repository,
        remote,
        licence,
        page,
        gated=gated,
        commercial=commercial,
        instead=instead,
        alternatives=alternatives,
    )
