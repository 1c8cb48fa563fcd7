"""Bring one file from a server over HTTP: resumed after a cut, verified, and with an end to the waiting.

The bytes lie under a temporary name until they are whole; who calls gives the file its own name. Standard library
only: proxies (HTTPS_PROXY, NO_PROXY) and certificates (SSL_CERT_FILE) are those of the environment.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from identisim.downloads.remote import PassingError, Patience, RemoteError, UnreachableError, ask
from identisim.errors import InputError
from identisim.impostors import impostor
from identisim.records import read_json, write_json

if TYPE_CHECKING:
    from tqdm import tqdm

CHUNK: Final = 2**20
PATIENCE: Final = Patience()
_SHA256 = re.compile(r"[0-9a-f]{64}")


def download(
    url: str,
    partial: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    patience: Patience = PATIENCE,
    progress: bool = True,
) -> str:
    """Bring a file to `partial`, whole and flushed to the disk, and return its sha256 (64 hex digits).

    size, sha256 (or its first digits): what the file must have; what the hub says of it is required as well. Bytes
    that an earlier call left are kept if their end can be verified. progress: a bar, on a terminal. Raises
    UnreachableError, RefusedError or RemoteError, and OSError when the disk does not take the bytes.
    """
    transfer = _Transfer(url, partial, size, sha256.lower() if sha256 else "", patience, progress)
    start, attempt = time.monotonic(), 0
    while True:
        attempt += 1
        try:
            return transfer.run(patience.answer - (0 if transfer.answered else time.monotonic() - start))
        except PassingError as error:
            pause = error.wait if error.wait is not None else patience.pause * 2 ** (attempt - 1)
            if pause > patience.longest:
                raise RemoteError(f"{error}; the server asks to wait {pause:.0f} s") from error
            pause *= 1 + random.random() / 4
            if not transfer.answered and time.monotonic() - start + pause > patience.answer:
                raise UnreachableError(str(error)) from error
            if attempt >= patience.tries:
                raise RemoteError(f"{error}; given up after {attempt} tries") from error
        time.sleep(pause)


class _Transfer:
    """What is known of one file between the tries.

    received: bytes in `partial`, and `hasher` has seen them. resumed: some of them came over another connection.
    """

    def __init__(
        self, url: str, partial: Path, size: int | None, sha256: str, patience: Patience, progress: bool
    ) -> None:
        self.url, self.partial, self.size, self.sha256 = url, partial, size, sha256
        self.patience, self.progress = patience, progress
        self.note = partial.with_name(f"{partial.name}.json")
        self.answered = self.resumed = False
        self.etag = self.linked_sha256 = ""
        self.total: int | None = None
        self.received, self.hasher = 0, hashlib.sha256()
        self._take_up()

    def run(self, seconds: float) -> str:
        """One try; the sha256 of the whole file. seconds: until an answer."""
        # without an ETag nobody could tell that the file was changed in between: from the start then
        again = self.received > 0 and self.etag != ""
        headers = {"Range": f"bytes={self.received}-", "If-Range": self.etag} if again else {}
        try:
            answer = ask(self.url, headers, seconds=seconds, stall=self.patience.stall)
        except UnreachableError as error:
            # a server that has answered before is there, and may answer again
            if self.answered:
                raise PassingError(str(error)) from error
            raise
        except RemoteError as error:
            self.answered = self.answered or error.status > 0
            if error.status == 416:
                self._discard()
            raise
        self.answered = True
        with answer.response as response:
            self._accept(response, answer.linked_sha256, answer.linked_size)
            self._store(response)
        return self._verified()

    def _take_up(self) -> None:
        """Go on with what an earlier process left, if a wrong end of it would be noticed."""
        try:
            note = read_json(self.note)
            if note["url"] != self.url or not self.partial.is_file():
                raise InputError("left by another download")
            self.etag, self.linked_sha256 = str(note["etag"]), str(note["sha256"])
            with self.partial.open("rb") as file:
                while chunk := file.read(CHUNK):
                    self.hasher.update(chunk)
                    self.received += len(chunk)
        except (InputError, KeyError, TypeError):
            self._discard()

    def _accept(self, response: HTTPResponse, linked_sha256: str, linked_size: int | None) -> None:
        """Judge an answer by its headers, before gigabytes follow."""
        headers = response.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise RemoteError("an HTML page came (a login or error page?), not the file")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteError("something on the way compresses the file")
        length = headers.get("Content-Length", "")
        offered = int(length) if length.isdecimal() else None
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        self.resumed = response.status == 206 and span is not None and int(span[1]) == self.received > 0
        if self.resumed and span is not None:
            offered = int(span[2])
        elif response.status == 206:
            self._discard()
            raise PassingError("the server sent another part of the file than was asked for")
        else:
            self._discard()
        self._expect(offered, linked_size, linked_sha256)
        if self.total is None and not response.chunked and not self.sha256:
            raise RemoteError("the server does not say how long the file is, so a cut would go unnoticed")
        etag = headers.get("ETag", "")
        self.etag = "" if etag.startswith("W/") else etag
        if self.etag and (self.sha256 or linked_sha256) and (self.total or 0) > CHUNK:
            write_json(self.note, {"url": self.url, "etag": self.etag, "sha256": linked_sha256})

    def _expect(self, offered: int | None, linked_size: int | None, linked_sha256: str) -> None:
        sizes = {size for size in (self.size, linked_size, offered) if size is not None}
        if len(sizes) > 1:
            stated = self.size if self.size is not None else linked_size
            raise RemoteError(
                f"the server offers {offered if offered is not None else linked_size} bytes, expected {stated}: "
                "another version, or another file"
            )
        self.linked_sha256 = linked_sha256 if _SHA256.fullmatch(linked_sha256) else ""
        if self.linked_sha256 and not self.linked_sha256.startswith(self.sha256):
            raise RemoteError(
                f"the server offers another version: sha256 {self.linked_sha256}, expected {self.sha256}"
            )
        self.total = next(iter(sizes), None)

    def _store(self, response: HTTPResponse) -> None:
        try:
            with self.partial.open("ab" if self.received else "wb") as file, self._bar() as bar:
                while chunk := _read(response):
                    file.write(chunk)
                    self.hasher.update(chunk)
                    self.received += len(chunk)
                    bar.update(len(chunk))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            # the disk: half a file must not keep a full one full
            self._discard()
            raise
        if self.total is not None and self.received < self.total:
            raise PassingError(f"the connection ended after {self.received} of {self.total} bytes")

    def _verified(self) -> str:
        digest = self.hasher.hexdigest()
        expected = self.linked_sha256 or self.sha256
        if stranger := impostor(self.partial):
            self._refuse(f"{stranger} came, not the file")
        if self.total is not None and self.received != self.total:
            self._refuse(f"{self.received} bytes came, expected {self.total}")
        if not digest.startswith(expected):
            self._refuse(
                f"damaged on the way, or another version: its sha256 is {digest}, expected {expected}"
            )
        self.note.unlink(missing_ok=True)
        return digest

    def _refuse(self, reason: str) -> NoReturn:
        resumed = self.resumed
        self._discard()
        raise PassingError(reason, wait=0) if resumed else RemoteError(reason)

    def _discard(self) -> None:
        """Forget the bytes received."""
        self.partial.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.received, self.hasher, self.etag, self.resumed = 0, hashlib.sha256(), "", False

    def _bar(self) -> tqdm[NoReturn]:
        from tqdm import tqdm

        return tqdm(
            total=self.total,
            initial=self.received,
            unit="B",
            unit_scale=True,
            desc=self.partial.name.removeprefix(".").removesuffix(".part"),
            leave=False,
            disable=None if self.progress else True,
        )


def _read(response: HTTPResponse) -> bytes:
    # read1 hands over what is there: a cut loses nothing
    try:
        return response.read1(CHUNK)
    except TimeoutError as error:
        raise PassingError("the server sent nothing more") from error
    except (OSError, HTTPException) as error:
        raise PassingError(f"the connection broke ({error or type(error).__name__})") from error
