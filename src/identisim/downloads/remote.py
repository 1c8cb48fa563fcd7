"""Ask a server for a file and wait no longer than was said; the token of the hub never leaves the hub."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Final, NoReturn
from urllib.parse import urlsplit

from identisim.downloads.cache import huggingface_home
from identisim.sources import HUB

PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that may be another one soon."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    answer: for the first answer of a server, with all that comes before it (name, connection, redirects). stall: for
    the next byte. tries: of one file. pause: before the second try; it doubles each time, with jitter. longest: what
    a server may ask to wait.
    """

    answer: float = 5.0
    stall: float = 30.0
    tries: int = 5
    pause: float = 1.0
    longest: float = 60.0


class RemoteError(Exception):
    """A file could not be had; the message says what happened. status: of HTTP, 0 when nobody answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(RemoteError):
    """Nobody answered."""


class RefusedError(RemoteError):
    """The server wants to know who asks, or does not let them in (401, 403). identified: whether a token was sent."""

    def __init__(self, message: str, status: int, *, identified: bool) -> None:
        super().__init__(message, status)
        self.identified = identified


class PassingError(RemoteError):
    """Something that may be better at the next try. wait: seconds that the server asks for, None if it does not."""

    def __init__(self, message: str, status: int = 0, *, wait: float | None = None) -> None:
        super().__init__(message, status)
        self.wait = wait


@dataclass(frozen=True)
class Answer:
    """A response whose body is still to be read, and what the hub says of the file on the way there.

    linked_sha256: 64 hex digits, "" when it says nothing; linked_size: bytes, None when it says nothing.
    """

    response: HTTPResponse
    linked_sha256: str
    linked_size: int | None


def endpoint() -> str:
    """The Hugging Face hub, or what HF_ENDPOINT names in its place."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or HUB


def address(url: str) -> str:
    """Where a URL is really asked for: HF_ENDPOINT replaces the Hugging Face hub."""
    return endpoint() + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def on_hub(url: str) -> bool:
    """Whether a URL belongs to the Hugging Face hub, or to what HF_ENDPOINT names in its place."""
    return _origin(url) in (_origin(HUB), _origin(endpoint()))


def token() -> str | None:
    """Token for the Hugging Face hub: HF_TOKEN, or the file that `hf auth login` leaves; None when there is none."""
    found = os.environ.get("HF_TOKEN", "").strip()
    if not found:
        path = os.environ.get("HF_TOKEN_PATH")
        try:
            found = (Path(path) if path else huggingface_home() / "token").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    if found and not re.fullmatch(r"[!-~]+", found):
        raise RemoteError("the token in HF_TOKEN (or its file) holds blanks or letters that no token has")
    return found or None


def ask(url: str, headers: dict[str, str], *, seconds: float, stall: float) -> Answer:
    """Send a GET request, follow its redirects, and return once the headers of the answer are there.

    seconds: until then; stall: until the next byte of the body. Raises UnreachableError when nobody answers in
    time, RefusedError for 401 and 403, PassingError for what may pass, RemoteError for the rest.
    """
    url = address(url)
    if not re.match(r"https?://[^/]", url):
        raise RemoteError(
            f"{url}: expected a URL that starts with http:// or https:// (HF_ENDPOINT is wrong?)"
        )
    secret = token() if on_hub(url) else None
    redirects = _Redirects(secret)
    request = urllib.request.Request(url, headers={"User-Agent": "identisim", **headers})
    if secret:
        request.add_unredirected_header("Authorization", f"Bearer {secret}")
    opener = urllib.request.build_opener(redirects)
    try:
        response = _in_time(opener, request, seconds, stall)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for(error, identified=bool(secret))
    except (OSError, HTTPException) as error:
        raise _unanswered(error) from error
    redirects.listen(response.headers)
    return Answer(response, redirects.linked_sha256, redirects.linked_size)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, with the token only where it belongs, and listen to what the hub says in passing."""

    def __init__(self, secret: str | None) -> None:
        self.secret = secret
        self.linked_sha256 = ""
        self.linked_size: int | None = None

    def redirect_request(
        self,
        request: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        message: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        self.listen(headers)
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or request.type == "https"):
            fp.close()
            raise RemoteError(
                f"the server redirects from {request.type} to {scheme or 'nowhere'}: refused", code
            )
        following = super().redirect_request(request, fp, code, message, headers, newurl)
        if following is not None and self.secret and on_hub(newurl):
            following.add_unredirected_header("Authorization", f"Bearer {self.secret}")
        return following

    def listen(self, headers: Message) -> None:
        """Keep sha256 and size of a large file: its ETag is its sha256, a small file has another one."""
        etag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
        size = headers.get("X-Linked-Size", "")
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            self.linked_sha256 = etag
        if size.isdecimal():
            self.linked_size = int(size)


def _in_time(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, seconds: float, stall: float
) -> HTTPResponse:
    """Open a request within some seconds; looking a name up has no time limit of its own, so a thread does it."""
    results: queue.SimpleQueue[HTTPResponse | BaseException] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            results.put(opener.open(request, timeout=stall))
        except BaseException as error:  # raised again below
            results.put(error)
        if given_up.is_set():
            _drop(results)

    threading.Thread(target=work, daemon=True, name="identisim-download").start()
    try:
        result = results.get(timeout=max(seconds, 0))
    except queue.Empty:
        raise TimeoutError(f"no answer within {max(seconds, 0):.3g} s") from None
    finally:
        given_up.set()
        _drop(results)
    if isinstance(result, BaseException):
        raise result
    return result


def _drop(results: queue.SimpleQueue[HTTPResponse | BaseException]) -> None:
    """Close an answer that came too late."""
    try:
        late = results.get_nowait()
    except queue.Empty:
        return
    if isinstance(late, HTTPResponse | urllib.error.HTTPError):
        late.close()


def _raise_for(error: urllib.error.HTTPError, *, identified: bool) -> NoReturn:
    said = " ".join(error.headers.get("X-Error-Message", "").split())[:200]
    text = f"HTTP {error.code} {said or error.reason}".strip()
    if error.code in (401, 403):
        raise RefusedError(text, error.code, identified=identified)
    if error.code in PASSING or error.code == 416:
        wait = 0.0 if error.code == 416 else _retry_after(error.headers)
        raise PassingError(text, error.code, wait=wait)
    raise RemoteError(text, error.code)


def _retry_after(headers: Message) -> float | None:
    """Seconds that the server asks to wait, given as a number or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _unanswered(error: OSError | HTTPException) -> RemoteError:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    text = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
    # a server that is there but overloaded closes the connection
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError | HTTPException):
        return PassingError(f"the connection broke ({text})")
    return UnreachableError(text)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
