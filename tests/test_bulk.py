from __future__ import annotations

import importlib
import io
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from identisim.bulk import Failure, OnError, Shard, Task, exclusive, open_finished, run_in_shards
from identisim.errors import InputError
from identisim.records import read_table

ITEMS = ["apple", "bolt", "cup", "dice", "egg", "fork", "glove"]


class BrokenError(InputError):
    pass


class Toys:
    """Items are names, rows are (name, content); `calls` counts the work, `broken` names fail."""

    def __init__(self, contents: dict[str, str] | None = None, broken: Sequence[str] = ()) -> None:
        self.contents = contents or {name: name.upper() for name in ITEMS}
        self.broken = set(broken)
        self.calls: list[str] = []
        self.interrupt_at = -1

    def work(self, name: str, stamp: str) -> tuple[str, str]:
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls.append(name)
        if name in self.broken:
            raise BrokenError(f"{name} is broken")
        assert stamp == self.contents[name]
        return name, self.contents[name]

    def run(
        self, out: Path, on_error: OnError = "skip", *, progress: bool = False, **options: Any
    ) -> list[Shard]:
        task: Task[str, tuple[str, str]] = Task(
            key=lambda name: name,
            stamp=lambda name: self.contents[name],
            work=self.work,
            table=lambda rows: pa.table(
                {"name": [row[0] for row in rows], "content": [row[1] for row in rows]}
            ),
            unit="toy",
            key_column="name",
        )
        return run_in_shards(task, ITEMS, out, shard_size=3, on_error=on_error, progress=progress, **options)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows_of(shards: Sequence[Shard]) -> list[tuple[str, str]]:
    return [tuple(row.values()) for shard in shards for row in shard.table().to_pylist()]


def test_a_run_gives_every_row_in_order_and_is_done_once(tmp_path: Path) -> None:
    toys = Toys()
    shards = toys.run(tmp_path)
    assert rows_of(shards) == [(name, name.upper()) for name in ITEMS]
    assert [shard.rows for shard in shards] == [3, 3, 1]
    assert sorted(content_of(tmp_path)) == [
        "_SUCCESS",
        "failures.parquet",
        *(f"shards/0000{i}.{suffix}" for i in range(3) for suffix in ("json", "parquet")),
    ]
    before = content_of(tmp_path)
    assert toys.run(tmp_path) == shards == open_finished(tmp_path, 3)
    assert toys.calls == ITEMS
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("count", range(len(ITEMS)))
def test_an_interrupt_leaves_complete_shards_only(tmp_path: Path, count: int) -> None:
    Toys(broken=["cup"]).run(tmp_path / "clean")
    toys = Toys(broken=["cup"])
    toys.interrupt_at = count
    with pytest.raises(KeyboardInterrupt):
        toys.run(tmp_path / "run")
    done = count // 3
    assert len(list((tmp_path / "run").rglob("*.*"))) == 2 * done
    with pytest.raises(InputError, match=f"unfinished, shards {done} of 3 are done"):
        open_finished(tmp_path / "run", 3)
    toys.interrupt_at = -1
    toys.run(tmp_path / "run")
    assert toys.calls == ITEMS[:count] + ITEMS[3 * done :]
    assert content_of(tmp_path / "run") == content_of(tmp_path / "clean")


def test_only_the_shard_of_a_changed_item_is_redone(tmp_path: Path) -> None:
    Toys().run(tmp_path / "run")
    contents = {name: name.upper() for name in ITEMS} | {"egg": "broken shell"}
    toys = Toys(contents)
    shards = toys.run(tmp_path / "run")
    assert toys.calls == ["dice", "egg", "fork"]
    assert rows_of(shards) == list(contents.items())
    Toys(contents).run(tmp_path / "clean")
    assert content_of(tmp_path / "clean") == content_of(tmp_path / "run")


def test_an_item_that_changes_during_its_work_is_redone_by_the_next_run(tmp_path: Path) -> None:
    toys = Toys()
    original = toys.work

    def work(name: str, stamp: str) -> tuple[str, str]:
        row = original(name, stamp)
        toys.contents[name] = "changed"
        return row

    toys.work = work  # type: ignore[method-assign]
    toys.run(tmp_path)
    toys.work = original  # type: ignore[method-assign]
    assert rows_of(toys.run(tmp_path)) == [(name, "changed") for name in ITEMS]


def test_failures_are_listed_and_retried_only_when_asked(tmp_path: Path) -> None:
    toys = Toys(broken=["dice", "glove"])
    shards = toys.run(tmp_path)
    assert [shard.failures for shard in shards] == [
        (),
        (Failure("dice", "BrokenError", "dice is broken"),),
        (Failure("glove", "BrokenError", "glove is broken"),),
    ]
    assert [name for name, _ in rows_of(shards)] == ["apple", "bolt", "cup", "egg", "fork"]
    assert read_table(tmp_path / "failures.parquet").to_pylist() == [
        {"name": name, "error": "BrokenError", "message": f"{name} is broken"} for name in ("dice", "glove")
    ]
    assert open_finished(tmp_path, 3) == shards

    toys = Toys(broken=["glove"])  # the dice can be read again
    assert toys.run(tmp_path) == shards
    assert toys.calls == []
    with pytest.raises(InputError, match=r"dice is broken \(2 failed in an earlier run and were not tried"):
        toys.run(tmp_path, "raise")
    shards = toys.run(tmp_path, retry_failed=True)
    assert toys.calls == ["dice", "egg", "fork", "glove"]
    assert len(rows_of(shards)) == 6
    Toys(broken=["glove"]).run(tmp_path / "clean")
    assert content_of(tmp_path / "clean")["_SUCCESS"] == (tmp_path / "_SUCCESS").read_bytes()


def test_raise_stops_at_the_first_failure_and_keeps_what_is_done(tmp_path: Path) -> None:
    toys = Toys(broken=["egg", "glove"])
    with pytest.raises(BrokenError, match="egg is broken"):
        toys.run(tmp_path, "raise")
    assert toys.calls == ITEMS[:5]
    assert sorted(content_of(tmp_path)) == ["shards/00000.json", "shards/00000.parquet"]
    toys.broken = set()
    assert len(rows_of(toys.run(tmp_path, "raise"))) == len(ITEMS)


def test_errors_that_nobody_can_mend_stop_the_run(tmp_path: Path) -> None:
    toys = Toys(contents={name: name for name in ITEMS})

    def work(name: str, stamp: str) -> tuple[str, str]:
        raise MemoryError

    toys.work = work  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        toys.run(tmp_path, "skip")


def flip(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("seed", range(12))
def test_damage_anywhere_is_found_and_repaired(
    tmp_path: Path, damage: Callable[[bytes, random.Random], bytes], seed: int
) -> None:
    Toys(broken=["bolt"]).run(tmp_path)
    clean = content_of(tmp_path)
    rng = random.Random(seed)
    name = sorted(set(clean) - {"failures.parquet"})[seed % (len(clean) - 1)]
    (tmp_path / name).write_bytes(damage(clean[name], rng))
    with pytest.raises(InputError, match=r"damaged|changed after"):
        open_finished(tmp_path, 3)
    toys = Toys(broken=["bolt"])
    toys.run(tmp_path)
    assert content_of(tmp_path) == clean
    assert len(toys.calls) == (0 if name == "_SUCCESS" else 1 if "00002" in name else 3)


def test_a_missing_shard_is_named_and_redone(tmp_path: Path) -> None:
    Toys().run(tmp_path)
    clean = content_of(tmp_path)
    for suffix in ("parquet", "json"):
        (tmp_path / f"shards/00001.{suffix}").unlink()
        with pytest.raises(InputError, match=rf"00001\.{suffix}: missing"):
            open_finished(tmp_path, 3)
        Toys().run(tmp_path)
        assert content_of(tmp_path) == clean


def test_only_one_shard_of_rows_is_in_memory(tmp_path: Path) -> None:
    class Row:
        pass

    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = 0

    def work(item: int, stamp: str) -> Row:
        nonlocal most
        row = Row()
        alive.add(row)
        most = max(most, len(alive))
        return row

    task: Task[int, Row] = Task(str, str, work, lambda rows: pa.table({"n": [0] * len(rows)}))
    run_in_shards(task, range(100), tmp_path, shard_size=5, progress=False)
    assert most <= 10  # those being written may live until the next shard begins


def test_progress_is_shown_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Toys(broken=["cup"]).run(tmp_path / "a", progress=True)
    assert capsys.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    Toys().run(tmp_path / "b", progress=False)
    assert terminal.getvalue() == ""
    Toys(broken=["cup"]).run(tmp_path / "c", progress=True)
    shown = terminal.getvalue()
    assert "7/7" in shown and "toy/s" in shown and "failed=1" in shown


def test_a_folder_belongs_to_one_process_and_one_kind_of_run(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    code = "import sys, pathlib, identisim.bulk as b\n"
    code += "with b.exclusive(pathlib.Path(sys.argv[1]), 'm.json'): pass"
    with exclusive(out, "m.json"):
        with pytest.raises(InputError, match="another process is writing"), exclusive(out, "m.json"):
            pass
        other = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
        assert "InputError" in other.stderr and "another process" in other.stderr
    subprocess.run([sys.executable, "-c", code, out], check=True)

    (out / "photo.png").touch()
    with pytest.raises(InputError, match=r"holds other files and no m\.json"), exclusive(out, "m.json"):
        pass
    with pytest.raises(InputError, match="is a file"), exclusive(out / "photo.png", "m.json"):
        pass


def test_a_kill_at_every_single_write_ends_in_the_same_bytes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, __file__, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    Toys(broken=["cup"]).run(tmp_path / "clean")
    clean = content_of(tmp_path / "clean")
    runs = [folder for folder in tmp_path.iterdir() if folder.name != "clean"]
    # 8 files, each: fsync, rename, fsync of the folder
    assert len(runs) == int(done.stdout) == 24
    for folder in runs:
        assert content_of(folder) == clean


def _in_child(task: Callable[[], object]) -> int:
    """Run a task in a forked process; its exit status. The parent never starts a thread, so that is safe."""
    child = os.fork()
    if child == 0:
        task()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def _run_until_write(out: Path, fatal: int) -> None:
    calls = itertools.count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            if next(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return called

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    Toys(broken=["cup"]).run(out)


def _kill_everywhere(folder: Path) -> int:
    for fatal in itertools.count():
        out = folder / str(fatal)
        status = _in_child(partial(_run_until_write, out, fatal))
        if status == 0:
            shutil.rmtree(out)
            return fatal
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert _in_child(partial(Toys(broken=["cup"]).run, out)) == 0
    raise AssertionError


if __name__ == "__main__":
    for slow_to_import in ("pyarrow.parquet", "tqdm"):
        importlib.import_module(slow_to_import)
    print(_kill_everywhere(Path(sys.argv[1])))
