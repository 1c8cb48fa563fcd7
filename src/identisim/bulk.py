"""Run one function over many records, in shards that survive kill -9.

A run folder holds `shards/`, `failures.parquet` and, when all is done, `_SUCCESS` with the counts and a
digest of the shards. A shard is one parquet file with the rows of `shard_size` consecutive items, and a
sidecar, written after it, with its size and SHA-256, what went in and what failed. A shard counts as done
only while all of that still holds, so a run that is started again redoes what is missing, truncated, flipped
or out of date, and nothing else. The rows depend on the items alone: killed and clean runs end in the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar

from identisim.errors import InputError
from identisim.records import (
    file_sha256,
    read_json,
    read_table,
    remove_temporary_files,
    write_json,
    write_table,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from tqdm import tqdm

Item = TypeVar("Item")
Row = TypeVar("Row")
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Failure:
    """An item that gave no row: its key, the class of the error and its message."""

    key: str
    error: str
    message: str


@dataclass(frozen=True)
class Shard:
    """What the sidecar of a shard says. size: of the parquet file; inputs: digest of keys and stamps."""

    path: Path
    size: int
    sha256: str
    rows: int
    inputs: str
    failures: tuple[Failure, ...]

    @classmethod
    def open(cls, folder: Path, index: int) -> Shard:
        """Read the sidecar of shard `index`, not its rows; InputError if it is missing or unreadable."""
        path = _shard_path(folder, index)
        content = read_json(path.with_suffix(".json"))
        if not isinstance(content, dict) or content.pop("digest", None) != _digest(content):
            raise InputError(f"{path.with_suffix('.json')}: damaged")
        failures = tuple(Failure(**failure) for failure in content.pop("failures"))
        return cls(path=path, failures=failures, **content)

    def require_intact(self) -> None:
        """InputError unless the parquet file has the size and SHA-256 it was written with."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: missing, though its sidecar says it was finished")
        size = self.path.stat().st_size
        if size != self.size:
            raise InputError(f"{self.path}: damaged: {size} bytes, but {self.size} were written")
        sha256 = file_sha256(self.path)
        if sha256 != self.sha256:
            raise InputError(
                f"{self.path}: damaged: SHA-256 {sha256[:16]}…, but {self.sha256[:16]}… was written"
            )

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """The rows of this shard; columns: only these."""
        return read_table(self.path, columns)


@dataclass(frozen=True)
class Task(Generic[Item, Row]):
    """One function to run over items, and how its rows are stored.

    key: name of an item, unique. stamp: digest of what an item holds right now; a shard with another stamp is
    out of date. work: item, its stamp -> row; an InputError is a failure of that item (its message should
    name the item), anything else stops the run. table: rows of a shard, in order, -> pyarrow table (also of
    no rows).
    """

    key: Callable[[Item], str]
    stamp: Callable[[Item], str]
    work: Callable[[Item, str], Row]
    table: Callable[[Sequence[Row]], pa.Table]
    unit: str = "item"
    key_column: str = "key"


def run_in_shards(
    task: Task[Item, Row],
    items: Sequence[Item],
    out: Path,
    *,
    shard_size: int,
    on_error: OnError = "raise",
    retry_failed: bool = False,
    progress: bool = True,
) -> list[Shard]:
    """Run a task over items into the run folder `out`; returns every shard, in order.

    Shards that are done are kept; retry_failed: except those with failures. on_error="raise": the first
    failure (of this run or of a kept shard) is raised as InputError, finished shards stay; "skip": failures
    are recorded in their shard. Only one shard's rows are in memory. The caller makes sure, by `exclusive`,
    that no other process writes to `out`.
    """
    folder = out / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    for leftovers in (out, folder):
        remove_temporary_files(leftovers)
    parts = [items[start : start + shard_size] for start in range(0, len(items), shard_size)]
    shards = _shards_to_keep(task, parts, folder, retry_failed=retry_failed, progress=progress)
    if on_error == "raise":
        _require_no_failures(shards)
    done = sum(len(parts[index]) for index in shards)
    failed = sum(len(shard.failures) for shard in shards.values())
    with _bar(len(items), task.unit, progress, initial=done) as bar:
        for index, part in enumerate(parts):
            if index not in shards:
                path = _shard_path(folder, index)
                shards[index] = _run_shard(task, part, path, on_error=on_error, bar=bar, failed=failed)
                failed += len(shards[index].failures)
    return _finish(task, out, [shards[index] for index in range(len(parts))])


def open_finished(out: Path, count: int) -> list[Shard]:
    """The `count` shards of a finished run, after verifying size and SHA-256 of each.

    Raises InputError for a run that is not finished, that was changed afterwards, or that is damaged.
    """
    folder, success = out / "shards", out / "_SUCCESS"
    if not success.is_file():
        done = sum(_shard_path(folder, index).with_suffix(".json").is_file() for index in range(count))
        raise InputError(f"{out}: unfinished, shards {done} of {count} are done")
    shards = [Shard.open(folder, index) for index in range(count)]
    for shard in shards:
        shard.require_intact()
    if read_json(success) != _totals(shards):
        raise InputError(f"{out}: unfinished, its shards were changed after it was finished")
    return shards


@contextmanager
def exclusive(folder: Path, marker: str) -> Iterator[None]:
    """Make a run folder if it is new and keep other processes out of it; a kill releases the lock.

    marker: name of a file that tells such a folder from others. InputError for a file, for a folder that
    holds other things and no marker, and at once if another process is in it.
    """
    import fcntl

    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder to write to")
    folder.mkdir(parents=True, exist_ok=True)
    # A run killed before its first write leaves nothing but hidden files.
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if visible and marker not in visible:
        raise InputError(f"{folder}: holds other files and no {marker}; give a new or an empty folder")
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another process is writing there; wait until it ends or give another folder"
            ) from error
        yield


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.parquet"


def _shards_to_keep(
    task: Task[Item, Row], parts: list[Sequence[Item]], folder: Path, *, retry_failed: bool, progress: bool
) -> dict[int, Shard]:
    kept = {}
    with _bar(len(parts), "shard", progress and any(folder.iterdir()), description="checking") as bar:
        for index, part in enumerate(parts):
            bar.update()
            try:
                shard = Shard.open(folder, index)
                shard.require_intact()
            except InputError:
                continue  # missing or damaged: exactly what is to be computed again
            stamps = [task.stamp(item) for item in part]
            if shard.inputs == _inputs_digest(task, part, stamps) and not (retry_failed and shard.failures):
                kept[index] = shard
    return kept


def _run_shard(
    task: Task[Item, Row],
    part: Sequence[Item],
    path: Path,
    *,
    on_error: OnError,
    bar: tqdm[NoReturn],
    failed: int,
) -> Shard:
    stamps: list[str] = []
    rows: list[Row] = []
    failures: list[Failure] = []
    for item in part:
        # Before the work: an item that changes meanwhile carries the old stamp, so the next run redoes it.
        stamps.append(task.stamp(item))
        try:
            rows.append(task.work(item, stamps[-1]))
        except InputError as error:
            if on_error == "raise":
                raise
            failures.append(Failure(task.key(item), type(error).__name__, str(error)))
            bar.set_postfix(failed=failed + len(failures))
        bar.update()
    write_table(path, task.table(rows))
    shard = Shard(
        path=path,
        size=path.stat().st_size,
        sha256=file_sha256(path),
        rows=len(rows),
        inputs=_inputs_digest(task, part, stamps),
        failures=tuple(failures),
    )
    write_json(path.with_suffix(".json"), _sidecar(shard))
    return shard


def _finish(task: Task[Item, Row], out: Path, shards: list[Shard]) -> list[Shard]:
    import pyarrow as pa

    failures = [astuple(failure) for shard in shards for failure in shard.failures]
    names = [task.key_column, "error", "message"]
    rows = [dict(zip(names, failure, strict=True)) for failure in failures]
    schema = pa.schema([(name, pa.string()) for name in names])
    write_table(out / "failures.parquet", pa.Table.from_pylist(rows, schema=schema))
    write_json(out / "_SUCCESS", _totals(shards))
    return shards


def _totals(shards: Sequence[Shard]) -> dict[str, Any]:
    return {
        "rows": sum(shard.rows for shard in shards),
        "failed": sum(len(shard.failures) for shard in shards),
        "shards": len(shards),
        "digest": _digest([_sidecar(shard) for shard in shards]),
    }


def _sidecar(shard: Shard) -> dict[str, Any]:
    content = {name: value for name, value in asdict(shard).items() if name != "path"}
    return {**content, "digest": _digest(content)}


def _inputs_digest(task: Task[Item, Row], part: Sequence[Item], stamps: list[str]) -> str:
    return _digest([[task.key(item), stamp] for item, stamp in zip(part, stamps, strict=True)])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _require_no_failures(shards: Mapping[int, Shard]) -> None:
    failures = [failure for index in sorted(shards) for failure in shards[index].failures]
    if failures:
        raise InputError(
            f"{failures[0].message} ({len(failures)} failed in an earlier run and were not tried again: "
            "repair and retry them, or choose to skip them)"
        )


def _bar(total: int, unit: str, shown: bool, *, initial: int = 0, description: str = "") -> tqdm[NoReturn]:
    from tqdm import tqdm

    # disable=None: shown only where stderr is a terminal.
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        desc=description or None,
        leave=not description,
        disable=None if shown else True,
    )
