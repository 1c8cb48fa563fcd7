"""Fetch the files of a source, one process at a time, each whole or not at all."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from identisim.downloads import cache
from identisim.downloads.advice import Wanted
from identisim.downloads.lock import alone
from identisim.records import atomic_file
from identisim.sources import RemoteFile, Source

if TYPE_CHECKING:
    from identisim.downloads.remote import Patience

MAX_UNPACKED: Final = 8 * 2**30
"""Bytes that the members taken from one archive may have: published ones stay below 2 GiB."""


def fetch(
    source: Source,
    *,
    wanted_by: str,
    accept_licence: bool = False,
    progress: bool = True,
    to: Path | None = None,
    patience: Patience | None = None,
) -> Path:
    """Folder that holds every file of the source; what is not on this machine yet is downloaded.

    wanted_by: name of the metric, for the messages. accept_licence: consent to a licence that forbids commercial
    use; it is remembered beside the files. progress: bars, on a terminal. to: folder to use instead of the cache,
    with the same layout in it; what this machine has is copied. patience: how long to wait, None = as usual. With
    all files present there is no network call of any kind.

    Raises DownloadError when the network is forbidden (IDENTISIM_OFFLINE), when consent is lacking or the owner
    lets nobody in, and TransferError when network, server or disk fail.
    """
    found = cache.locate(source)
    if to is None and found is not None:
        return found
    folder = (cache.home() if to is None else Path(to).absolute()) / source.folder
    wanted = Wanted(source, wanted_by, folder)
    lacking = cache.missing(source, folder)
    if not lacking:
        return folder
    if found is None:
        if by_hand := next((file for file in lacking if not file.url), None):
            raise wanted.by_hand(by_hand)
        if switch := cache.offline():
            raise wanted.forbidden(lacking[0], switch)
        if not (source.commercial or accept_licence or cache.licence_accepted(folder, source.licence)):
            raise wanted.unlicensed()
    try:
        with alone(folder, progress=progress):
            if accept_licence and not source.commercial:
                cache.remember_licence(folder, source.licence)
            _fill(wanted, found, patience, progress)
    except OSError as error:
        raise wanted.unwritten(error) from error
    return folder


def _fill(wanted: Wanted, found: Path | None, patience: Patience | None, progress: bool) -> None:
    """Bring what the folder lacks, while no other process writes there."""
    for leftover in wanted.folder.rglob(".*.tmp"):
        leftover.unlink()
    # looked at again: another process may have fetched it meanwhile
    for file in cache.missing(wanted.source, wanted.folder):
        if found is None:
            _download(file, wanted, patience, progress)
        else:
            for name in cache.names(file):
                with (found / name).open("rb") as content:
                    _place(content, wanted.folder, name, file.url)


def _download(file: RemoteFile, wanted: Wanted, patience: Patience | None, progress: bool) -> None:
    from identisim.downloads import remote
    from identisim.downloads.file import PATIENCE, download

    target = cache.below(wanted.folder, file.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    url = remote.address(file.url)
    try:
        sha256 = download(
            url,
            partial,
            size=file.size,
            sha256=file.sha256,
            patience=patience or PATIENCE,
            progress=progress,
        )
    except remote.UnreachableError as error:
        raise wanted.unreachable(file, url, error) from error
    except remote.RefusedError as error:
        raise wanted.refused(file, url, error, identified=error.identified) from error
    except remote.RemoteError as error:
        raise wanted.failed(file, url, error) from error
    if file.members:
        _unpack(file, partial, wanted)
    else:
        partial.replace(target)
        cache.remember_file(wanted.folder, file.name, url=file.url, sha256=sha256)


def _unpack(file: RemoteFile, archive: Path, wanted: Wanted) -> None:
    """Take the named members out of an archive and nothing else; the archive goes."""
    try:
        with zipfile.ZipFile(archive) as opened:
            claimed = sum(opened.getinfo(member).file_size for member, _ in file.members)
            if claimed > MAX_UNPACKED:
                raise zipfile.BadZipFile(
                    f"it unpacks to {claimed} bytes, at most {MAX_UNPACKED} are accepted"
                )
            for member, name in file.members:
                with opened.open(member) as content:
                    _place(content, wanted.folder, name, file.url)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise wanted.unpacked(file, error) from error
    finally:
        archive.unlink()


def _place(content: IO[bytes], folder: Path, name: str, url: str) -> None:
    """Write a file below the folder, atomically, and note what it is."""
    target = cache.below(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    with atomic_file(target) as file:
        while chunk := content.read(2**20):
            hasher.update(chunk)
            file.write(chunk)
    cache.remember_file(folder, name, url=url, sha256=hasher.hexdigest())
