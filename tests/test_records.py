from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identisim import records
from identisim.errors import InputError
from identisim.records import View, read_path_list, read_table, read_views, write_table, write_views

VIEWS = [
    View("a/1.png", "cup", "toy", "train", mask="a/1-mask.png", parameters='{"light": [0.5, 1]}'),
    View("a/ü 2.png", "cup", "toy", "train"),
    View("b/1.png", "bowl", "toy", "test", category="dish"),
]

names = st.text(st.characters(codec="utf-8", exclude_characters='\0/\\:.""'), min_size=1)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(
    data=st.lists(
        st.builds(
            View,
            path=names,
            identity=names,
            dataset=names,
            split=st.sampled_from(records.SPLITS),
            mask=st.none() | names,
            category=st.none() | names,
            parameters=st.dictionaries(names, st.integers() | names, max_size=2).map(json.dumps),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda view: view.path,
    )
)
def test_any_views_come_back_in_order(tmp_path: Path, data: list[View]) -> None:
    assert read_views(write_views(tmp_path / "views.parquet", data)) == data


def test_the_same_views_give_the_same_bytes(tmp_path: Path) -> None:
    write_views(tmp_path / "a.parquet", VIEWS)
    write_views(tmp_path / "b.parquet", iter(VIEWS))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_tables_of_other_writers_are_read(tmp_path: Path) -> None:
    columns = {name: [getattr(view, name) for view in VIEWS[1:2]] for name in View.__annotations__}
    table = pa.table(columns).set_column(1, "identity", pa.array(["cup"], pa.large_string()))
    assert pa.types.is_null(table.schema.field("mask").type)
    pq.write_table(table, tmp_path / "views.parquet")
    assert read_views(tmp_path / "views.parquet") == VIEWS[1:2]


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "views.parquet"
    table = {
        "path": ["a.png", "/etc/passwd", "../b.png", "a.png", "C:\\x.png", "./a.png", None],
        "identity": [1, 2, 3, 4, 5, 6, 7],
        "split": ["train", "trian", "test", "", "val", "val", "val"],
        "mask": pa.array([None, "m/../../x.png", "", None, None, None, None], pa.string()),
        "parameters": ["{}", "[]", "{", "{}", "{}", "{}", "{}"],
        "note": ["", "", "", "", "", "", ""],
    }
    pq.write_table(pa.table(table), path)
    with pytest.raises(InputError) as caught:
        read_views(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 13 problems:\n")
    for problem in (
        "column 'note': unknown",
        "column 'identity': has type int64, expected string",
        "column 'dataset': missing",
        "column 'category': missing",
        "empty path: row 6",
        "empty split: row 3",
        "empty mask: row 2",
        "path absolute; expected a path relative to the folder of this file: rows 1 ('/etc/passwd'), 4 (",
        "\n  path leaves its folder by '..': row 2 ('../b.png')",
        "mask path leaves its folder by '..': row 1",
        "duplicate path: row 0 = 3 = 5 ('a.png')",
        "unknown split (expected one of train, val, test, query, gallery): row 1 ('trian')",
        "parameters are no JSON object: rows 1, 2",
    ):
        assert problem in message, problem


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (VIEWS[:1] * 2, "duplicate path: row 0 = 1"),
        ([replace(VIEWS[0], path=f"../{i}") for i in range(14)], "and 4 more"),
        ([replace(VIEWS[0], split="training")], r"unknown split .*'training'"),
        ([], "no rows"),
    ],
)
def test_what_cannot_be_read_is_not_written(tmp_path: Path, fault: list[View], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write_views(tmp_path / "views.parquet", fault)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    pq.write_table(
        pq.read_table(write_views(tmp_path / "v.parquet", VIEWS)).slice(0, 0), tmp_path / "v.parquet"
    )
    with pytest.raises(InputError, match=r"1 problem:\n  no rows"):
        read_views(tmp_path / "v.parquet")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PAR1PAR1", None])
def test_files_that_are_no_parquet_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "views.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"views\.parquet: (damaged or no parquet|no such file)"):
        read_views(path)


def test_no_flipped_bit_in_the_data_pages_goes_unseen(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    table = pa.table({"name": [f"item {i % 3}" for i in range(12)], "vector": list(vectors)})
    path = write_table(tmp_path / "t.parquet", table)
    assert read_table(path).equals(table)
    good = path.read_bytes()
    # Page checksums do not cover the footer.
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    plain_reads_wrong = 0
    for position in range(4, footer, 3):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        try:
            assert read_table(path).equals(table)  # a bit that means nothing, e.g. in a page's statistics
        except InputError as error:
            assert str(path) in str(error)
        with suppress(OSError, ValueError):
            plain_reads_wrong += not pq.read_table(path).equals(table)
    assert plain_reads_wrong > 20  # so the checksums are what saves us


def test_truncation_is_seen_at_any_length(tmp_path: Path) -> None:
    path = write_views(tmp_path / "t.parquet", VIEWS)
    good = path.read_bytes()
    for length in range(0, len(good), 37):
        path.write_bytes(good[:length])
        with pytest.raises(InputError):
            read_views(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_views(tmp_path / "v.parquet", VIEWS)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_views(path, VIEWS[:1])
    monkeypatch.undo()
    assert read_views(path) == VIEWS
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]
    with pytest.raises(InputError, match="missing does not exist; make it first"):
        write_views(tmp_path / "missing" / "v.parquet", VIEWS)


def test_written_files_obey_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_views(tmp_path / "v.parquet", VIEWS)
    assert (tmp_path / "v.parquet").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_only_temporary_files_are_removed(tmp_path: Path) -> None:
    for name in (".v.parquet.0a1b2c3d.tmp", ".lock", "keep.tmp", "v.parquet"):
        (tmp_path / name).touch()
    records.remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "keep.tmp", "v.parquet"]


def test_path_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa b.png\r\n\r\nsub/ü.png\n trailing .png".encode())
    assert read_path_list(path) == ["a b.png", "sub/ü.png", " trailing .png"]
    path.write_text("a.png\n/b.png\n\n../c.png\n./a.png\n")
    with pytest.raises(InputError) as caught:
        read_path_list(path)
    for problem in ("3 problems", "line 2 ('/b.png')", "line 4 ('../c.png')", "duplicate path: line 1 = 5"):
        assert problem in str(caught.value)
    for content, words in ((b"\n \n", "no path in it"), (b"\xff\xfe", "UTF-8"), (None, "No such file")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        else:
            path = tmp_path / "missing.txt"
        with pytest.raises(InputError, match=words):
            read_path_list(path)


def test_importing_the_tables_is_light() -> None:
    code = "import sys, identisim.records, identisim.bulk, identisim.gallery; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "pyarrow", "tqdm"} & set(modules.split())
