"""A server of weights in this process, that answers as it is told to, with every fault that the network has."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """One answer.

    cut: bytes of the body after which the connection ends. stall: seconds of silence after them, before that.
    length: the Content-Length told, None for the true one, -1 for none. ranges: whether the server knows them.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    stall: float = 0
    length: int | None = None
    ranges: bool = False
    chunk: int = 2**16
    pause: float = 0


class WeightsServer(ThreadingHTTPServer):
    """`replies`: path -> answers, one after the other, the last one again and again. `requests`: what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: dict[str, list[Reply]] = {}
        self.requests: list[tuple[str, Message]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed or leave are part of the tests."""

    def asked(self, path: str) -> int:
        return sum(1 for asked, _ in self.requests if asked == path)


class Handler(BaseHTTPRequestHandler):
    server: WeightsServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers))
        replies = self.server.replies.get(self.path, [Reply(b"no such file", 404)])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.status == 0:  # the connection ends without a word
            self.connection.close()
            return
        body, status, extra = reply.body, reply.status, dict(reply.headers)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, extra.get("ETag"))
        if reply.ranges and span and same and status == 200:
            start = int(span[1])
            extra["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        if reply.length != -1:
            self.send_header("Content-Length", str(len(body) if reply.length is None else reply.length))
        self.end_headers()
        sent = body if reply.cut is None else body[: reply.cut]
        for start in range(0, len(sent), reply.chunk):
            self.wfile.write(sent[start : start + reply.chunk])
            time.sleep(reply.pause)
        time.sleep(reply.stall)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[WeightsServer]:
    """A server that runs while the block does."""
    server = WeightsServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
