"""Files of weights with every fault that the wild has, each produced for real."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from identisim.errors import InputError
from identisim.models import weights
from identisim.models.weights import WeightsError, load_into, load_weights
from identisim.records import file_sha256

SHA = "ab" * 32


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(3, 4, generator=generator), "bias": torch.randn(3, generator=generator)}


@pytest.fixture(params=["w.safetensors", "w.pth", "old.pt"])
def good_file(request: pytest.FixtureRequest, tmp_path: Path, state: dict[str, Tensor]) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=path.suffix == ".pth")
    return path


def test_tensors_come_back(good_file: Path, state: dict[str, Tensor]) -> None:
    for sha256 in (None, file_sha256(good_file), file_sha256(good_file).upper()):
        loaded = load_weights(str(good_file), sha256=sha256)
        assert type(loaded) is dict
        torch.testing.assert_close(loaded, state, rtol=0, atol=0)


def test_file_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "abc") == expected


def test_a_flipped_bit_is_found_by_the_hash(good_file: Path, state: dict[str, Tensor]) -> None:
    sha256 = file_sha256(good_file)
    content = bytearray(good_file.read_bytes())
    content[content.index(state["bias"].numpy().tobytes()) + 1] ^= 1
    good_file.write_bytes(content)
    assert not torch.equal(load_weights(good_file)["bias"], state["bias"])  # nobody notices without the hash
    with pytest.raises(WeightsError, match=f"its sha256 is .*; expected sha256 {sha256}"):
        load_weights(good_file, sha256=sha256)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_payload_is_refused_and_not_executed(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "w.pth", tmp_path / "executed"
    torch.save(
        {"weight": torch.ones(2), "x": Payload(f"touch {witness}")},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(WeightsError, match=r"nothing in it was executed.*system.*safetensors") as caught:
        load_weights(path, sha256=file_sha256(path))
    assert not witness.exists()
    assert "weights_only" not in str(caught.value)  # torch's own advice would execute it
    assert isinstance(caught.value, InputError)
    # the payload is real: unpickled, it does what it says
    pickle.loads(pickle.dumps(Payload(f"touch {witness}")))
    assert witness.exists()


def safetensors_bytes(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [start, end]}


DAMAGED = {
    "truncated": safetensors_bytes({"w": entry(0, 8)}, bytes(8))[:-3],
    "truncated header": safetensors_bytes({"w": entry(0, 8)}, bytes(8))[:20],
    "header length 2^62": struct.pack("<Q", 2**62) + b"{}",
    "offsets outside": safetensors_bytes({"w": entry(8, 16)}, bytes(8)),
    "offsets overlap": safetensors_bytes({"v": entry(0, 8), "w": entry(4, 12)}, bytes(12)),
    "trailing bytes": safetensors_bytes({"w": entry(0, 8)}, bytes(11)),
    "no header": b"\1\2\3",
    "header is no json": struct.pack("<Q", 4) + b"nope",
    "empty": b"",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_safetensors_are_refused_with_name_and_hash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        load_weights(path)
    with pytest.raises(WeightsError, match=rf"w\.safetensors.* expected sha256 {SHA}"):
        load_weights(path, sha256=SHA)


@pytest.mark.parametrize("kept", [1, 30, 200, -10])
def test_truncated_pickles_are_refused(good_file: Path, kept: int) -> None:
    path = good_file.with_name("cut.pth")
    path.write_bytes(good_file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        load_weights(path)


IMPOSTORS = {
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
    "html without doctype": (b"\xef\xbb\xbf<HTML>\n<head><title>404</title>", "an HTML page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a git-lfs pointer .*`git lfs pull`",
    ),
    "empty": (b"", "an empty file"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("content", "message"), IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_pages_and_pointers_are_called_by_their_name(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    path = (tmp_path / "w").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{message}.*download .* again; expected sha256 {SHA}"):
        load_weights(path, sha256=SHA)


def test_missing_files_directories_and_unknown_names(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="no such weights file"):
            load_weights(path)
    (tmp_path / "w.onnx").write_bytes(b"12345678")
    with pytest.raises(WeightsError, match=r"expected a name ending in \.safetensors, \.pth"):
        load_weights(tmp_path / "w.onnx")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list; expected a dict of named tensors"),
        ({"model": {"w": torch.ones(1)}, "epoch": 3}, "2 entries of .* not named tensors.*'model': dict"),
        ({0: torch.ones(1)}, "1 entries of .* not named tensors.*0: Tensor"),
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / "w.pth")


def test_a_hundred_thousand_tiny_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = {
        f"tensor_{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)
    }
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(header, bytes(100_000)))
    with pytest.raises(WeightsError, match=r"its header claims \d+ bytes, at most"):
        load_weights(tmp_path / "w.safetensors")
    monkeypatch.setattr(weights, "MAX_ZIP_ENTRIES", 100)
    torch.save({f"tensor_{i}": torch.ones(1) for i in range(100)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"\d+ entries .* at most 100 entries"):
        load_weights(tmp_path / "w.pth")


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for info in plain.infolist():
            bomb.writestr(info.filename, plain.read(info))
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    with pytest.raises(WeightsError, match="no compression"):
        load_weights(tmp_path / "bomb.pth")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)


def untouched(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_weights_arrive_in_the_module() -> None:
    source, target = Network(), Network()
    load_into(target, copied(source))
    assert untouched(target, copied(source))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    module = Network()
    before = copied(module)
    wrong = copied(Network())
    wrong["linear.weight"][1, 2] = value
    with pytest.raises(WeightsError, match=r"1 tensors with NaN or infinite values.*\(linear.weight\)"):
        load_into(module, wrong)
    assert untouched(module, before)


def test_other_names_are_listed_up_to_five() -> None:
    module = Network()
    before = copied(module)
    wrong = {f"block.{i}": torch.ones(1) for i in range(7)} | {"linear.bias": torch.ones(3)}
    with pytest.raises(WeightsError) as caught:
        load_into(module, wrong)
    message = str(caught.value)
    assert "6 names are missing (linear.weight, norm.bias, norm.num_batches_tracked, " in message
    assert "7 are unexpected (block.0, block.1, block.2, block.3, block.4, …)" in message
    assert untouched(module, before)


def test_one_extra_tensor_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"0 names are missing \(none\), 1 are unexpected \(extra\)"):
        load_into(Network(), copied(Network()) | {"extra": torch.ones(1)})


def test_other_shapes_are_refused_even_where_they_broadcast() -> None:
    module = Network()
    before = copied(module)
    wrong = copied(Network())
    wrong["linear.bias"] = torch.ones(1)
    with pytest.raises(
        WeightsError, match=r"1 tensors of another shape.*linear.bias: \(1,\) instead of \(3,\)"
    ):
        load_into(module, wrong)
    assert untouched(module, before)


def test_types_are_cast_only_if_declared() -> None:
    module = Network()
    before = copied(module)
    half = {
        name: value.half() if value.is_floating_point() else value for name, value in copied(module).items()
    }
    half["linear.bias"] += 1
    with pytest.raises(
        WeightsError, match=r"6 tensors of another type.*torch.float16 instead of torch.float32"
    ):
        load_into(module, half)
    with pytest.raises(WeightsError, match=r"torch.float16 instead of torch.bfloat16"):
        load_into(module, half, dtype=torch.bfloat16)
    assert untouched(module, before)
    load_into(module, half, dtype=torch.float16)
    assert module.linear.weight.dtype == torch.float32
    torch.testing.assert_close(module.linear.bias.detach(), half["linear.bias"].float(), rtol=0, atol=0)
    with pytest.raises(WeightsError, match=r"torch.float32 instead of torch.float16"):
        load_into(module, before, dtype=torch.float16)


def test_a_cast_that_overflows_is_refused() -> None:
    module = nn.Linear(2, 1, bias=False).half()
    with pytest.raises(WeightsError, match="NaN or infinite"):
        load_into(module, {"weight": torch.full((1, 2), 1e6)}, dtype=torch.float32)
