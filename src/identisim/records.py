"""Records that cross a stage boundary, and the tables that hold them.

A table is one parquet file with page checksums, written under a temporary name and renamed, so that a reader
sees the old file or the new one and never half of one. Page checksums cover the data pages, not the footer:
who must notice every flipped bit also keeps the file's SHA-256 (`file_sha256`), as `identisim.bulk` does.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, Final

from identisim.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS: Final = ("train", "val", "test", "query", "gallery")
"""What a view may be for. `query` and `gallery` are the two sides of a retrieval test."""

_OPTIONAL: Final = ("mask", "category")
_SHOWN: Final = 10  # rows named per kind of problem; the rest are counted


@dataclass(frozen=True)
class View:
    """One picture of one object.

    path and mask (None: there is none) are POSIX paths relative to the folder of the parquet file; identity
    names the one object shown, within its dataset; split is one of `SPLITS`; parameters is a JSON object with
    every parameter that made the picture ("{}" for a photo).
    """

    path: str
    identity: str
    dataset: str
    split: str
    mask: str | None = None
    category: str | None = None
    parameters: str = "{}"


def write_views(path: str | os.PathLike[str], views: Iterable[View]) -> Path:
    """Write views as one parquet file, atomically; InputError if `read_views` would refuse it."""
    import pyarrow as pa

    views = list(views)
    columns = {field.name: [getattr(view, field.name) for view in views] for field in fields(View)}
    _require_no_problems(path, _row_problems(columns))
    return write_table(path, pa.table(columns, schema=_view_schema()))


def read_views(path: str | os.PathLike[str]) -> list[View]:
    """Views of a parquet file, in row order.

    Raises one InputError that lists every problem: missing, unknown or ill-typed columns, no rows, and (with
    row numbers from 0) empty values, duplicate paths, paths that leave the folder, unknown splits and
    parameters that are no JSON object.
    """
    table = read_table(path)
    faults = _column_faults(table.schema)
    columns = {f.name: table[f.name].to_pylist() for f in fields(View) if f.name not in faults}
    _require_no_problems(path, [*faults.values(), *_row_problems(columns)])
    return [View(*row) for row in zip(*columns.values(), strict=True)]


def read_path_list(path: str | os.PathLike[str]) -> list[str]:
    """Paths of a UTF-8 text file, one per line, relative to that file's folder; blank lines are skipped.

    Raises one InputError that lists every absolute, outward (`..`) and repeated path by line number (from 1).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 text file ({error})") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    problems = _path_problems("line", numbered) + _duplicate_problems("line", numbered)
    _require_no_problems(path, problems if numbered else ["no path in it; expected one image path per line"])
    return [line for _, line in numbered]


def write_table(path: str | os.PathLike[str], table: pa.Table) -> Path:
    """Write a pyarrow table as parquet with page checksums, atomically. Same table, same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with atomic_file(path) as file:
        # Dictionaries only shrink repeated text; tried on float vectors they cost time and save nothing.
        pq.write_table(table, file, write_page_checksum=True, compression="zstd", use_dictionary=texts)
    return Path(path)


def read_table(path: str | os.PathLike[str], columns: list[str] | None = None) -> pa.Table:
    """Read a parquet file and verify its page checksums; InputError if missing, damaged or no parquet.

    columns: read only these; None = all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a parquet file")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: damaged or no parquet file ({reason}); make or download it again"
        ) from error


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file to write, that appears under `path` only when the block ends without an error.

    It is written in the same folder under a name that starts with a dot and ends in `.tmp`, flushed to the
    disk and renamed; a killed process can leave that file behind, see `remove_temporary_files`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # without it a power cut may undo the rename
    finally:
        os.close(folder)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically, keys in the order given. The same content gives the same bytes."""
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; InputError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: missing or damaged ({error})") from error


def remove_temporary_files(folder: Path) -> None:
    """Delete what killed writers left in this folder; call it only while no other process writes there."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes: 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _view_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([pa.field(f.name, pa.string(), nullable=f.name in _OPTIONAL) for f in fields(View)])


def _column_faults(schema: pa.Schema) -> dict[str, str]:
    import pyarrow as pa

    expected = _view_schema()
    faults = {
        name: f"column {name!r}: unknown; remove it or move it into 'parameters'"
        for name in schema.names
        if name not in expected.names
    }
    for field in expected:
        count = schema.names.count(field.name)
        if count != 1:
            faults[field.name] = f"column {field.name!r}: " + (f"comes {count} times" if count else "missing")
            continue
        found = schema.field(field.name).type
        is_text = found in (pa.string(), pa.large_string(), pa.string_view())
        # Writers that infer types give a column that is all null the type null.
        if not is_text and not (field.nullable and pa.types.is_null(found)):
            faults[field.name] = f"column {field.name!r}: has type {found}, expected string"
    return faults


def _row_problems(columns: Mapping[str, list[str | None]]) -> list[str]:
    """Problems of the values of the sound columns; `None` counts as empty where the column must be filled."""
    if columns and not any(columns.values()):
        return ["no rows; expected at least one view"]
    problems: list[str] = []
    filled = {name: [(row, v) for row, v in enumerate(c) if v] for name, c in columns.items()}
    for name, values in columns.items():
        empty = ("",) if name in _OPTIONAL else ("", None)
        problems += _listed(f"empty {name}", "row", [str(row) for row, v in enumerate(values) if v in empty])
    problems += _path_problems("row", filled.get("path", []))
    problems += _path_problems("row", filled.get("mask", []), what="mask ")
    problems += _duplicate_problems("row", filled.get("path", []))
    unknown = [f"{row} ({split!r})" for row, split in filled.get("split", []) if split not in SPLITS]
    problems += _listed(f"unknown split (expected one of {', '.join(SPLITS)})", "row", unknown)
    no_object = [str(row) for row, text in filled.get("parameters", []) if not _is_json_object(text)]
    return problems + _listed("parameters are no JSON object", "row", no_object)


def _path_problems(place: str, numbered: Sequence[tuple[int, str]], what: str = "") -> list[str]:
    by_fault: dict[str, list[str]] = {}
    for number, path in numbered:
        fault = _path_fault(path)
        if fault is not None:
            by_fault.setdefault(fault, []).append(f"{number} ({path!r})")
    return [line for fault, at in by_fault.items() for line in _listed(f"{what}path {fault}", place, at)]


def _path_fault(path: str) -> str | None:
    windows = PureWindowsPath(path)
    if path.startswith("/") or windows.drive or windows.root:
        return "absolute; expected a path relative to the folder of this file"
    if ".." in PurePosixPath(path).parts or ".." in windows.parts:
        return "leaves its folder by '..'"
    return None


def _duplicate_problems(place: str, numbered: Sequence[tuple[int, str]]) -> list[str]:
    by_path: dict[str, list[int]] = {}
    for number, path in numbered:
        by_path.setdefault(str(PurePosixPath(path)), []).append(number)
    repeated = [f"{' = '.join(map(str, at))} ({path!r})" for path, at in by_path.items() if len(at) > 1]
    return _listed("duplicate path", place, repeated)


def _listed(problem: str, place: str, at: list[str]) -> list[str]:
    if not at:
        return []
    more = f" and {len(at) - _SHOWN} more" if len(at) > _SHOWN else ""
    return [f"{problem}: {place}{'s' if len(at) > 1 else ''} {', '.join(at[:_SHOWN])}{more}"]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _require_no_problems(path: str | os.PathLike[str], problems: list[str]) -> None:
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(f"{os.fspath(path)}: {count}:\n  " + "\n  ".join(problems))
