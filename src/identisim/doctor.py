"""Look at this installation and say, line by line, what is well, what is not, and what to do about it."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from identisim.errors import InputError
from identisim.extras import missing_modules

if TYPE_CHECKING:
    from identisim.metrics.card import MetricCard

Verdict = Literal["ok", "warn", "fail"]
PROBE_SECONDS = 120
"""How long a library may take to import in a process of its own before it counts as broken."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. verdict "fail" means that something essential does not work.

    subject: what was looked at. detail: what was found. advice: what to do, "" when nothing.
    """

    verdict: Verdict
    subject: str
    detail: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Yield the findings one by one, as each may take a second; a check never raises."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _machine,
        _torchvision,
        _libraries,
        _torch,
        _weights,
        _folders,
        _downloads,
    )
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()}, {sys.executable}")


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "machine", f"{platform.system()} {platform.machine()}, {cores} cores, {_memory()}")
    flags = _cpu_flags()
    if flags is None:
        yield Finding("ok", "cpu", "instruction sets unknown on this system")
        return
    known = {"avx2": "AVX2", "avx512f": "AVX512", "amx_tile": "AMX"}
    found = [f"{name} {'yes' if flag in flags else 'no'}" for flag, name in known.items()]
    yield Finding("ok", "cpu", ", ".join(found))


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    return f"{total / 2**30:.0f} GiB memory"


def _cpu_flags() -> set[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line for line in lines if line.startswith("flags")), None)
    return None if flags is None else set(flags.partition(":")[2].split())


def _libraries() -> Iterator[Finding]:
    for name, module in (("numpy", "numpy"), ("pillow", "PIL"), ("pyarrow", "pyarrow")):
        yield _importable(name, module, essential=True, advice=f"pip install --force-reinstall {name}")
    if util.find_spec("numba") is None:
        advice = "only rendering needs it: pip install 'identisim[world]'"
        yield Finding("warn", "numba", "not installed", advice)
    else:
        yield _importable("numba", "numba", essential=False, advice="pip install --force-reinstall numba")


def _importable(name: str, module: str, *, essential: bool, advice: str) -> Finding:
    try:
        importlib.import_module(module)
        return Finding("ok", name, _version(name))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Finding("fail" if essential else "warn", name, _one_line(error), advice)


def _torchvision() -> Iterator[Finding]:
    """A torchvision built for another torch breaks all of transformers; import it where it does no harm."""
    if util.find_spec("torchvision") is None:
        yield Finding("ok", "torchvision", "not installed, not needed")
        return
    version = _version("torchvision")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", "import torchvision"],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
        trouble = probe.stderr.strip().splitlines()[-1:] if probe.returncode else []
    except subprocess.TimeoutExpired:
        trouble = [f"no answer within {PROBE_SECONDS} s"]
    if not trouble:
        yield Finding("ok", "torchvision", f"{version}, not needed")
        return
    advice = (
        "it was built for another torch and makes transformers fail with misleading messages "
        '("Are this object\'s requirements defined correctly?"): pip uninstall torchvision'
    )
    yield Finding("fail", "torchvision", f"{version} is broken: {trouble[0]}", advice)


def _torch() -> Iterator[Finding]:
    advice = "pip install --force-reinstall torch; see pytorch.org for the build of your machine"
    finding = _importable("torch", "torch", essential=True, advice=advice)
    yield finding
    if finding.verdict != "ok":
        return
    import torch

    devices = ["cpu"]
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield Finding("ok", "devices", f"{', '.join(devices)}; {torch.get_num_threads()} threads on the cpu")


def _weights() -> Iterator[Finding]:
    """Build every metric whose weights are here: that reads them and checks names, shapes or sha256."""
    from identisim.downloads import present
    from identisim.metrics.registry import METRICS, build, weights_present

    absent: list[str] = []
    for card in METRICS.values():
        subject = f"metric {card.name}"
        if not present(card.sources):
            absent.append(card.name)
            continue
        if not weights_present(card):
            advice = "the package is incomplete: pip install --force-reinstall identisim"
            yield Finding("fail", subject, f"weights missing: {card.weights}", advice)
            continue
        try:
            built = build(card.name, device="cpu")
        except (InputError, ImportError, OSError, RuntimeError) as error:
            yield _unbuilt(card, error)
        else:
            weights = "weights present, sha256 ok" if card.weights else "no weights needed"
            weights = "weights downloaded" if card.sources else weights
            yield Finding("ok", subject, f"{weights}, {built.fingerprint}")
    if absent:
        detail = f"{len(absent)} ({', '.join(absent)}); `identisim pull NAME` fetches what a metric needs"
        yield Finding("ok", "metrics not downloaded", detail)


def _unbuilt(card: MetricCard, error: Exception) -> Finding:
    """A metric that cannot be built: only that of the package itself is essential."""
    from identisim.downloads import locate

    subject, reason = f"metric {card.name}", _one_line(error)
    if card.sources and (card.extra is None or not missing_modules(card.extra)):
        folders = ", ".join(str(locate(source)) for source in card.sources)
        advice = f"if its weights are damaged, remove {folders} and run `identisim pull {card.name}`"
        return Finding("warn", subject, reason, advice)
    if card.extra is None:
        advice = "the package is damaged: pip install --force-reinstall identisim"
        return Finding("fail", subject, reason, advice)
    return Finding(
        "warn", subject, reason, f"only this metric needs it: pip install 'identisim[{card.extra}]'"
    )


def _folders() -> Iterator[Finding]:
    for subject, find in (("home folder", Path.home), ("temporary folder", tempfile.gettempdir)):
        try:
            folder = find()
        except (RuntimeError, FileNotFoundError) as error:
            yield Finding("warn", subject, _one_line(error), "set HOME or TMPDIR to a folder")
            continue
        if os.access(folder, os.W_OK):
            yield Finding("ok", subject, f"{folder}, writable")
        else:
            yield Finding("warn", subject, f"{folder} cannot be written to", "set HOME or TMPDIR")


def _downloads() -> Iterator[Finding]:
    """Where downloaded weights go, how much lies there, and whether downloading is allowed."""
    from identisim.downloads import cache

    try:
        folder = cache.home()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except (InputError, OSError) as error:
        yield Finding("warn", "weights folder", _one_line(error), "set IDENTISIM_HOME to a folder")
    else:
        held = f"{folder}, {cache.readable_size(size)} in it"
        if there.is_dir() and os.access(there, os.W_OK):
            yield Finding("ok", "weights folder", f"{held}, writable")
        else:
            advice = "set IDENTISIM_HOME to a folder that can be written to, or nothing can be downloaded"
            yield Finding("warn", "weights folder", f"{held}, cannot be written to", advice)
    switch = cache.offline()
    allowed = "allowed" if switch is None else f"forbidden: {switch} is set"
    yield Finding("ok", "downloads", allowed)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
