"""Keep other processes out of a folder while this one fetches into it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

LOCK: Final = ".identisim.lock"
POLL_SECONDS: Final = 0.2


@contextmanager
def alone(folder: Path, *, progress: bool) -> Iterator[None]:
    """Make the folder if it is new, and wait until no other process fetches into it; a kill releases the lock.

    progress: say on a terminal that there is something to wait for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        if not _locked(lock):
            if progress and sys.stderr.isatty():
                print(f"identisim: another process fetches {folder}; waiting for it", file=sys.stderr)
            while not _locked(lock):
                time.sleep(POLL_SECONDS)
        yield


if sys.platform == "win32":
    import msvcrt

    def _locked(lock: IO[str]) -> bool:
        """Take the lock if it is free; closing the file gives it back."""
        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locked(lock: IO[str]) -> bool:
        """Take the lock if it is free; closing the file gives it back."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
