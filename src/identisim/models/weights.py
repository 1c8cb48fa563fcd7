"""Weights from files that nobody vouches for: tensors or a clear refusal, never code, never half a network.

safetensors has no checksum of its own and a `.pth` file is a pickle, so a file is looked at, compared
with the sha256 its publisher gives, and parsed without executing anything, before a single number of the
network changes.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from identisim.errors import InputError
from identisim.impostors import impostor
from identisim.records import atomic_file, file_sha256

PICKLES = (".pth", ".pt", ".bin", ".tar")
MAX_HEADER_BYTES = 4 * 2**20
"""safetensors describes a tensor in about 100 bytes: room for 40,000 tensors, 50 times what a ViT-L has."""

MAX_ZIP_ENTRIES = 40_000
SHOWN = 5


class WeightsError(InputError):
    """A weights file or its tensors cannot be used."""


def load_weights(path: str | Path, *, sha256: str | None = None, inside: str = "") -> dict[str, Tensor]:
    """Read a flat state dict from .safetensors, or from .pth, .pt, .bin, .pth.tar without executing the pickle.

    inside: key of the state dict in a pickle that holds more than that, "" when it is the whole.
    sha256: what the publisher states; the file is refused before it is parsed when its own differs.
    Without it a flipped bit in the tensors goes unnoticed, because neither format checks them. The
    tensors are on the CPU. Raises `WeightsError` for a missing file, an HTML page or git-lfs pointer in
    its place, a wrong hash, a damaged file, one that holds anything but named tensors, and headers of
    absurd size.
    """
    path = Path(path)
    expected = f"; expected sha256 {sha256}" if sha256 else ""
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file (or not a regular one); download it or correct the path{expected}"
        )
    if stranger := impostor(path):
        raise WeightsError(f"{path} is {stranger}, not weights: download the file itself again{expected}")
    if sha256 is not None and (found := file_sha256(path)) != sha256.lower():
        raise WeightsError(
            f"{path} is damaged or another version: its sha256 is {found}{expected}; download it again"
        )
    if path.suffix == ".safetensors":
        return _load_safetensors(path, expected)
    if path.suffix in PICKLES:
        return _load_pickle(path, expected, inside)
    raise WeightsError(f"{path}: expected a name ending in .safetensors, {', '.join(PICKLES)}")


def load_into(module: nn.Module, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Copy `state` into `module`, all of it or nothing.

    dtype: the floating-point type that the file is declared to hold, which is then cast to the module's;
    without it every tensor must have the module's own type. Raises `WeightsError`, and leaves the module
    as it was, when names, shapes or types differ and when a value is NaN or infinite, also after the
    cast.
    """
    own = module.state_dict()
    require_same_names(own, state)
    wrong_shapes = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(target.shape)}"
        for name, target in own.items()
        if state[name].shape != target.shape
    ]
    _require_none(wrong_shapes, "tensors of another shape: the weights belong to another size of network")
    wrong_types = [
        f"{name}: {state[name].dtype} instead of {expected}"
        for name, target in own.items()
        if state[name].dtype != (expected := _expected_dtype(target, dtype))
    ]
    _require_none(
        wrong_types, "tensors of another type: declare it with dtype= if the file is meant to have it"
    )
    broken = [name for name, target in own.items() if not bool(state[name].to(target.dtype).isfinite().all())]
    _require_none(broken, "tensors with NaN or infinite values: the training run that wrote them failed")
    module.load_state_dict(state, strict=True)


def save_weights(module: nn.Module, path: Path) -> Path:
    """Write the state of a module as safetensors, atomically; returns the path."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    content = save(tensors)
    with atomic_file(path) as file:
        file.write(content)
    return path


def _load_safetensors(path: Path, expected: str) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = file.read(8)
    if len(length) == 8 and (header_bytes := struct.unpack("<Q", length)[0]) > MAX_HEADER_BYTES:
        raise WeightsError(
            f"{path}: its header claims {header_bytes} bytes, at most {MAX_HEADER_BYTES} are accepted: "
            f"damaged, not a safetensors file, or far too many tensors{expected}"
        )
    try:
        return load_file(path)
    except Exception as error:  # the parser of a hostile file may raise anything
        raise WeightsError(f"{path} is damaged or not a safetensors file ({error}){expected}") from error


def _load_pickle(path: Path, expected: str, inside: str) -> dict[str, Tensor]:
    entries, claimed = _zip_contents(path)
    if entries > MAX_ZIP_ENTRIES or claimed > path.stat().st_size:
        raise WeightsError(
            f"{path}: {entries} entries that unpack to {claimed} bytes; at most {MAX_ZIP_ENTRIES} entries "
            f"are accepted, and no compression{expected}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was refused and nothing in it was executed: it asks for more than tensors "
            f"({_reason(error)}), and such a pickle can run any code; "
            f"get the weights as .safetensors{expected}"
        ) from error
    except Exception as error:  # the parser of a hostile file may raise anything
        raise WeightsError(
            f"{path} is damaged or not a PyTorch file ({error or type(error)}){expected}"
        ) from error
    if inside:
        if not (isinstance(state, dict) and inside in state):
            raise WeightsError(f"{path} holds no {inside!r}; expected a dict with weights under that name")
        state = state[inside]
    return _flat_state(path, state)


def _zip_contents(path: Path) -> tuple[int, int]:
    """Number and unpacked bytes of the entries; zeros for the old format and for what torch will refuse."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        return 0, 0
    return len(entries), sum(entry.file_size for entry in entries)


def _reason(error: Exception) -> str:
    # torch surrounds the reason with the advice to load the file unsafely, which must not reach a user
    lines = [line.strip() for line in str(error).splitlines() if "nsupported" in line]
    return lines[0] if lines else "its pickle is damaged"


def _flat_state(path: Path, state: object) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds a {type(state).__name__}; expected a dict of named tensors")
    strangers = [
        f"{name!r}: {type(value).__name__}"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    _require_none(strangers, f"entries of {path} that are not named tensors; expected a flat state dict")
    return {name: value.detach() for name, value in state.items()}


def _expected_dtype(target: Tensor, declared: torch.dtype | None) -> torch.dtype:
    return declared if declared is not None and target.is_floating_point() else target.dtype


def require_same_names(own: Iterable[str], given: Iterable[str]) -> None:
    """Raise WeightsError, with some of the names, unless both have the same names."""
    missing, unexpected = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    if missing or unexpected:
        raise WeightsError(
            f"the weights belong to another network: {len(missing)} names are missing ({_some(missing)}), "
            f"{len(unexpected)} are unexpected ({_some(unexpected)})"
        )


def _require_none(problems: list[str], what: str) -> None:
    if problems:
        raise WeightsError(f"{len(problems)} {what} ({_some(problems)})")


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (", …" if len(items) > SHOWN else "") if items else "none"
