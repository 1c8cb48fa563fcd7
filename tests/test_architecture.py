"""The rules of the tree that a machine can check: who imports whom, what stays light, sizes and names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import identisim
from identisim.extras import MODULES

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "identisim"
LINES = 320
LONGER = {
    "images.py": "one story, from the bytes of a file to the input of a network",
    "world/kernels.py": "compiled loops that call each other",
}
VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "base", "misc"}
HEAVY = ("torch", "numpy", "PIL", "pyarrow", "pandas", "transformers", "numba", "typer")


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Check the contract of .importlinter on the package that lies in a folder."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--config", ROOT / ".importlinter"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )


def heavy_modules_after(statement: str) -> dict[str, object]:
    """Run a statement in a fresh process: which heavy libraries it loaded and the CPU seconds that took."""
    code = (
        "import json, sys, time; start = time.process_time()\n"
        f"{statement}\n"
        "seconds = time.process_time() - start\n"
        f"print(json.dumps({{'heavy': [m for m in {HEAVY} if m in sys.modules], 'seconds': seconds}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_imports_point_down() -> None:
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_that_points_up_is_caught(tmp_path: Path) -> None:
    shutil.copytree(
        SOURCE, tmp_path / "identisim", ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
    )
    module = tmp_path / "identisim" / "errors.py"
    module.write_text(module.read_text() + "\n\ndef upwards():\n    from identisim import gallery\n")
    done = lint_imports(tmp_path)
    assert done.returncode != 0
    assert "identisim.errors is not allowed to import identisim.gallery" in done.stdout


def test_importing_the_package_is_light() -> None:
    after = heavy_modules_after("import identisim")
    assert after["heavy"] == []
    assert after["seconds"] < 0.3


@pytest.mark.parametrize(
    "module",
    [
        "records",
        "decoding",
        "images",
        "bulk",
        "gallery",
        "cli",
        "doctor",
        "metrics.registry",
        "metrics.classical",
        "evaluation.folder",
    ],
)
def test_module_loads_no_torch(module: str) -> None:
    assert "torch" not in heavy_modules_after(f"import identisim.{module}")["heavy"]


def test_public_names_are_pinned() -> None:
    assert sorted(identisim.__all__) == [
        "Comparison",
        "Gallery",
        "InputError",
        "__version__",
        "build_gallery",
        "compare",
        "list_metrics",
        "load_image",
        "load_metric",
    ]
    assert all(getattr(identisim, name) is not None for name in identisim.__all__)
    assert set(identisim.__all__) <= set(dir(identisim))


def test_unknown_names_are_refused_as_by_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'compere'"):
        identisim.compere  # noqa: B018


def test_version_is_the_one_of_the_project_file() -> None:
    assert f'\nversion = "{identisim.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_extras_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(MODULES) == set(project["optional-dependencies"]) - {"dev"}


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def test_files_stay_short() -> None:
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in source_files()
    }
    longer = {name for name, lines in lengths.items() if lines > LINES}
    assert longer <= set(LONGER), "split them, or list them in LONGER with the reason"


def test_no_module_has_a_vague_name() -> None:
    names = {part for path in source_files() for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not names & VAGUE


@pytest.mark.parametrize("pattern", [r"weights_only\s*=\s*False", r"trust_remote_code\s*=\s*True"])
def test_nothing_downloaded_is_ever_executed(pattern: str) -> None:
    assert [path.name for path in source_files() if re.search(pattern, path.read_text())] == []


def test_no_path_of_one_machine_in_the_project() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: which files belong to the project is not known")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    machine = re.compile(rb"(?<![\w.-])/" + rb"(work|farm|root|Users|home/\w+)/")
    assert [str(path) for path in files if path.is_file() and machine.search(path.read_bytes())] == []
