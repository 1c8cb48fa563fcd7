"""What to tell somebody whose weights cannot be had: what came, what was expected, what to do."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from identisim.downloads.cache import readable_size
from identisim.errors import InputError
from identisim.sources import HUB, RemoteFile, Source

if TYPE_CHECKING:
    from identisim.downloads.remote import RemoteError


class DownloadError(InputError):
    """Weights are not there, and to have them the caller must do something; the message says what."""


class TransferError(DownloadError):
    """Fetching was tried and failed on the way: network, server or disk."""


@dataclass(frozen=True)
class Wanted:
    """What is fetched: the source, for which metric, and the folder that it goes to."""

    source: Source
    by: str
    folder: Path

    @property
    def _pull(self) -> str:
        return f"`identisim pull {self.by}`"

    @property
    def _local(self) -> str:
        return (
            "or give a folder that holds the files: "
            f"load_metric({self.by!r}, weights=FOLDER), on the command line --weights FOLDER"
        )

    def forbidden(self, file: RemoteFile, switch: str) -> DownloadError:
        """The network is switched off."""
        return DownloadError(
            f"{self.by} needs {file.name} of {self.source.folder} ({readable_size(self.source.size)} in all), which "
            f"is not in {self.folder}, and {switch} is set, so that nothing is downloaded: unset it and run "
            f"{self._pull}, copy the files there, {self._local}"
        )

    def by_hand(self, file: RemoteFile) -> DownloadError:
        """No program can fetch it."""
        return DownloadError(
            f"{self.by} needs {file.name} of {self.source.folder}, which only its page gives, to people who log in: "
            f"download it from {self.source.page} and save it as {self.folder / file.name}, {self._local}"
        )

    def unlicensed(self) -> DownloadError:
        """The licence forbids commercial use and nobody has accepted it."""
        instead = f"; {self.source.instead} has no such limit" if self.source.instead else ""
        return DownloadError(
            f"the weights {self.source.folder} of {self.by} come under {self.source.licence}, which forbids "
            f"commercial use: read it on {self.source.page} and, if you accept it, run `identisim pull {self.by} "
            f"--accept-licence` or set IDENTISIM_ACCEPT_LICENCE=1{instead}"
        )

    def unreachable(self, file: RemoteFile, url: str, error: RemoteError) -> TransferError:
        """Nobody answers."""
        strangers = "CERTIFICATE_VERIFY_FAILED" in str(error)
        online = "set SSL_CERT_FILE to the certificates of your network" if strangers else "go online"
        return TransferError(
            f"{self.by} needs {file.name} of {self.source.folder}, which is not in {self.folder}, and {url} cannot "
            f"be reached ({error}): {online} and run {self._pull}, copy the files there from a machine that has "
            f"them, {self._local}; IDENTISIM_OFFLINE=1 keeps identisim from trying"
        )

    def refused(self, file: RemoteFile, url: str, error: RemoteError, *, identified: bool) -> DownloadError:
        """The owner lets nobody in, or not this user."""
        token = (
            "the token that was sent has no access to them or has expired: renew it (HF_TOKEN)"
            if identified
            else "set HF_TOKEN to an access token of your account"
        )
        entry = f"request access on {self.source.page}, then {token} and run {self._pull}"
        if not file.url.startswith(f"{HUB}/"):
            entry = f"see {self.source.page}"
        instead = f"; or use {self.source.instead}, which anybody may fetch" if self.source.instead else ""
        if self.source.alternatives:
            instead = f", or save {' or '.join(self.source.alternatives)} in {self.folder}{instead}"
        return DownloadError(
            f"{self.by} needs {file.name} of {self.source.folder}, but {url} is gated or private ({error}): {entry}, "
            f"{self._local}{instead}"
        )

    def failed(self, file: RemoteFile, url: str, error: RemoteError) -> TransferError:
        """Any other trouble on the way."""
        again = (
            "what is whole is kept; run {} again later"
            if error.status != 404
            else "update identisim and run {}"
        )
        return TransferError(
            f"{file.name} of {self.source.folder}, which {self.by} needs, was not fetched from {url}: {error}; "
            f"{again.format(self._pull)}, see {self.source.page}, {self._local}"
        )

    def unpacked(self, file: RemoteFile, reason: object) -> TransferError:
        """An archive is not what it should be."""
        return TransferError(
            f"{file.name} of {self.source.folder}, which {self.by} needs, is not the archive that was expected "
            f"({reason}): update identisim and run {self._pull}, see {self.source.page}, {self._local}"
        )

    def unwritten(self, error: OSError) -> TransferError:
        """The disk does not take the files."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        size = readable_size(self.source.size)
        return TransferError(
            f"{self.by} needs {self.source.folder} ({size}), which cannot be written to {self.folder}: {reason}; "
            f"{'free space' if full else 'make it writable'}, or set IDENTISIM_HOME to another folder"
        )
