"""Loading pictures: every fault is really produced, every conversion compared with pixels known by hand."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from identisim.errors import InputError
from identisim.images import (
    AspectWarning,
    ImageError,
    ImageLimits,
    Preprocessing,
    as_sequence,
    blur_score,
    composite,
    coverage,
    crop_to_mask,
    list_images,
    load_image,
    resize,
    save_png,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y // height, 255 * x // width, 127 + 0 * x], axis=-1).astype(np.uint8)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, raw: bytes, *, bits: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG from its raw scan lines, so that headers can promise what the data do not hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def deflated_zeros(megabytes: int) -> bytes:
    """Stream that inflates to that many MiB of zeros: one block repeated, a wrong checksum at the end."""
    packer = zlib.compressobj(9)
    start = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (megabytes - 1) + packer.flush()


class TestSources:
    def test_every_kind_of_source_gives_the_same_pixels(self, tmp_path: Path) -> None:
        pixels = noise(5, 7)
        path = tmp_path / "a.png"
        save_png(path, pixels)
        sources = [path, str(path), path.read_bytes(), Image.fromarray(pixels), pixels, pixels / 255]
        sources += [pixels.astype(np.uint16) * 257, (pixels / 255).astype(np.float32)]
        chw = torch.from_numpy(pixels).permute(2, 0, 1)
        sources += [chw, chw / 255, (chw / 255).double().requires_grad_()]
        for source in sources:
            loaded = load_image(source)
            assert loaded.dtype == np.uint8
            np.testing.assert_array_equal(loaded, pixels)

    def test_result_is_a_writable_copy(self) -> None:
        pixels = noise(4, 4)
        for source in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
            load_image(source)[...] = 0
        np.testing.assert_array_equal(pixels, noise(4, 4))

    @pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)])
    def test_grey_arrays_become_three_equal_channels(self, shape: tuple[int, ...]) -> None:
        grey = noise(4, 6)[..., 0].reshape(shape)
        expected = np.repeat(grey.reshape(4, 6, 1), 3, axis=2)
        np.testing.assert_array_equal(load_image(grey), expected)
        tensor = torch.from_numpy(grey.reshape(4, 6)) if len(shape) == 2 else torch.from_numpy(grey).mT.mT
        tensor = tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1)
        np.testing.assert_array_equal(load_image(tensor), expected)

    def test_half_precision_tensors(self) -> None:
        tensor = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1)
        for dtype in (torch.float16, torch.bfloat16):
            assert load_image(tensor.to(dtype)).tolist() == [[[0, 128, 255]]]

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (np.zeros((3, 20, 20), np.uint8), ["(3, 20, 20)", "(H, W, C)", ".transpose(1, 2, 0)"]),
            (torch.zeros(20, 20, 3), ["(20, 20, 3)", "(C, H, W)", ".permute(2, 0, 1)"]),
            (np.zeros((2, 4, 4, 3), np.uint8), ["(2, 4, 4, 3)", "one picture"]),
            (np.zeros((0, 4, 3), np.uint8), ["(0, 4, 3)"]),
            (np.zeros(7, np.uint8), ["(7,)"]),
            (np.zeros((4, 4, 3), np.int64), ["int64", "uint8"]),
            (np.zeros((4, 4), bool), ["bool"]),
            (17, ["int", "path"]),
            (None, ["NoneType"]),
        ],
    )
    def test_wrong_shapes_and_types_are_named(self, source: object, words: list[str]) -> None:
        with pytest.raises(ImageError) as caught:
            load_image(source)  # type: ignore[arg-type]
        for word in words:
            assert word in str(caught.value)

    def test_import_is_light(self) -> None:
        code = "import sys, identisim.images; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFloatRange:
    """S4."""

    @pytest.mark.parametrize("as_tensor", [False, True])
    @pytest.mark.parametrize(
        ("values", "hint"),
        [
            ((-1.0, 0.0, 1.0), "value_range=(-1, 1)"),
            ((0.0, 128.0, 255.0), "value_range=(0, 255)"),
            ((-2.1, 0.3, 2.6), "mean and standard deviation"),
            ((0.0, 0.5, np.nan), "NaN"),
            ((0.0, 0.5, np.inf), "infinity"),
        ],
    )
    def test_wrong_range_is_refused_with_the_likely_mistake(
        self, values: tuple[float, ...], hint: str, as_tensor: bool
    ) -> None:
        source = torch.tensor(values).reshape(3, 1, 1) if as_tensor else np.array([[values]])
        with pytest.raises(ImageError, match="cannot read") as caught:
            load_image(source)
        assert hint in str(caught.value)

    @pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0)])
    def test_value_range_converts(self, low: float, high: float) -> None:
        pixels = noise(6, 6)
        np.testing.assert_array_equal(
            load_image(pixels / 255 * (high - low) + low, value_range=(low, high)), pixels
        )

    def test_rounding_noise_is_tolerated_and_clipped(self) -> None:
        assert load_image(np.array([[[-9e-4, 0.5, 1 + 9e-4]]])).tolist() == [[[0, 128, 255]]]

    def test_empty_range(self) -> None:
        with pytest.raises(InputError, match="black < white"):
            load_image(np.zeros((2, 2, 3)), value_range=(1, 1))


class TestColour:
    """I4 and I5: golden pixels."""

    def test_cmyk(self) -> None:
        cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        np.testing.assert_array_equal(load_image(cmyk), np.full((8, 8, 3), (0, 255, 255)))
        dark = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
        np.testing.assert_array_equal(load_image(encoded(dark, "TIFF")), np.zeros((8, 8, 3)))
        # Pillow writes CMYK JPEGs as Adobe does, inverted; quality 100 leaves at most rounding
        loaded = load_image(encoded(cmyk, "JPEG", quality=100)).astype(int)
        assert np.abs(loaded - (0, 255, 255)).max() <= 2

    @pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
    def test_hidden_colour_under_alpha_never_shows(self, form: str) -> None:
        rgba = np.zeros((16, 16, 4), np.uint8)
        rgba[..., 0] = 255
        rgba[:, 8:, 3] = 255
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        loaded = load_image(encoded(Image.fromarray(rgba), form, **options))
        tolerance = 4 if form == "AVIF" else 0
        assert np.abs(loaded[:, :6].astype(int) - 255).max() <= tolerance
        assert np.abs(loaded[:, 10:].astype(int) - (255, 0, 0)).max() <= tolerance

    def test_half_transparent_blends_with_the_background(self) -> None:
        rgba = np.array([[[200, 100, 0, 51]]], np.uint8)
        expected = 0.2 * rgba[0, 0, :3] + 0.8 * np.array([10, 20, 30])
        for source in (rgba, Image.fromarray(rgba), encoded(Image.fromarray(rgba), "PNG")):
            loaded = load_image(source, background=(10, 20, 30))
            assert np.abs(loaded[0, 0] - expected).max() <= 1

    @pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBa"])
    def test_other_alpha_modes(self, mode: str) -> None:
        assert load_image(Image.new(mode, (2, 1)), background=(1, 2, 3)).tolist() == [[[1, 2, 3]] * 2]

    @pytest.mark.parametrize("form", ["PNG", "GIF"])
    def test_palette_with_a_transparent_entry(self, form: str) -> None:
        palette = Image.new("P", (2, 1))
        palette.putpalette([255, 0, 0, 0, 0, 255])
        palette.putpixel((1, 0), 1)
        assert load_image(encoded(palette, form)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
        with_key = encoded(palette, form, transparency=0)
        assert load_image(with_key, background=(9, 9, 9)).tolist() == [[[9, 9, 9], [0, 0, 255]]]

    def test_palette_with_partial_alpha(self) -> None:
        palette = Image.new("P", (2, 1))
        palette.putpalette([255, 0, 0, 0, 0, 255])
        palette.putpixel((1, 0), 1)
        data = encoded(palette, "PNG", transparency=bytes([0, 255]))
        assert load_image(data).tolist() == [[[255, 255, 255], [0, 0, 255]]]

    @pytest.mark.parametrize(("bits", "key"), [(1, 1), (2, 3), (4, 15), (8, 255)])
    def test_transparent_grey_of_any_depth(self, bits: int, key: int) -> None:
        data = png(1, 1, b"\0\xff", bits=bits, extra=chunk(b"tRNS", struct.pack(">H", key)))
        assert load_image(data, background=(7, 7, 7)).tolist() == [[[7, 7, 7]]]

    def test_transparent_colour(self) -> None:
        key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
        data = png(2, 1, bytes([0, 1, 2, 3, 4, 5, 6]), colour=2, extra=key)
        assert load_image(data).tolist() == [[[255, 255, 255], [4, 5, 6]]]
        deep = png(1, 1, b"\0" + bytes(6), bits=16, colour=2, extra=key)
        with pytest.raises(ImageError, match="16-bit colour"):
            load_image(deep)

    def test_16_bit_grey_is_scaled_and_rounded(self) -> None:
        values = np.array([[0, 128, 129, 257, 40000, 65535]], ">u2")
        expected = np.rint(values.astype(float) / 257).astype(int)[0]
        assert expected.tolist() == [0, 0, 1, 1, 156, 255]
        tiffs = []
        for order in "<>":
            buffer = io.BytesIO()
            tifffile.imwrite(buffer, values.astype(np.uint16), byteorder=order, photometric="minisblack")
            tiffs.append(buffer.getvalue())
        for data in [png(6, 1, b"\0" + values.tobytes(), bits=16), *tiffs]:
            np.testing.assert_array_equal(load_image(data)[0], np.repeat(expected[:, None], 3, axis=1))

    def test_16_bit_grey_with_a_transparent_value(self) -> None:
        key = chunk(b"tRNS", struct.pack(">H", 40000))
        data = png(2, 1, b"\0" + struct.pack(">HH", 40000, 65535), bits=16, extra=key)
        assert load_image(data, background=(1, 2, 3)).tolist() == [[[1, 2, 3], [255, 255, 255]]]

    def test_16_bit_tiff_where_0_is_white(self) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.array([[0, 65535]], np.uint16), photometric="miniswhite")
        assert load_image(buffer.getvalue()).tolist() == [[[255] * 3, [0] * 3]]

    @pytest.mark.parametrize("colour", [2, 6])
    def test_16_bit_colour_is_within_one_level(self, colour: int) -> None:
        values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3 if colour == 2 else 4))
        if colour == 6:
            values[..., 3] = 65535
        raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        loaded = load_image(png(5, 4, raw, bits=16, colour=colour)).astype(float)
        assert np.abs(loaded - values[..., :3] / 257).max() <= 1

    @given(st.integers(0, 65535))
    @settings(deadline=None, max_examples=50)
    def test_uint16_arrays_round_as_floats_do(self, value: int) -> None:
        assert load_image(np.full((1, 1), value, np.uint16))[0, 0, 0] == round(value / 257)

    @pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floats"), (np.uint32, "32-bit integers")])
    def test_pictures_without_a_declared_range_are_refused(self, dtype: type, kind: str) -> None:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.zeros((4, 4), dtype))
        with pytest.raises(ImageError, match=kind):
            load_image(buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_applied_exactly_once(form: str, orientation: int) -> None:
    """I6. TIFF matters: Pillow turns those itself while it decodes."""
    baked = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: np.swapaxes(x, 0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
        8: lambda x: np.rot90(x, 1),
    }[orientation]
    stored = smooth(16, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.get(form, {"quality": 95})
    data = encoded(Image.fromarray(stored), form, exif=exif, **options)
    loaded, expected = load_image(data), baked(stored)
    assert loaded.shape == expected.shape
    assert np.abs(loaded.astype(int) - expected).max() <= (12 if form in ("JPEG", "AVIF") else 0)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))), loaded)


def test_exif_orientation_of_16_bit_grey() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 257)
    assert load_image(encoded(grey, "PNG", exif=exif))[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


class TestFrames:
    """I7."""

    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
    def test_frames_are_chosen_and_counted(self, form: str) -> None:
        frames = [Image.new("RGB", (16, 16), colour) for colour in self.colours]
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        for number, colour in enumerate(self.colours):
            loaded = load_image(data, frame=number).astype(int)
            assert np.abs(loaded - colour).max() <= (4 if form == "AVIF" else 0)
        np.testing.assert_array_equal(load_image(data), load_image(data, frame=0))
        for outside in (3, -1):
            with pytest.raises(ImageError, match=f"frame {outside} was asked; it has 3"):
                load_image(data, frame=outside)
        with pytest.raises(ImageError, match="3 frames, the limit is 2"):
            load_image(data, limits=ImageLimits(max_frames=2))

    def test_a_picture_in_memory_has_no_frames(self) -> None:
        with pytest.raises(ImageError, match="frame 1"):
            load_image(noise(2, 2), frame=1)

    def test_a_larger_second_page_is_held_to_the_limit(self) -> None:
        pages = [Image.new("L", (4, 4)), Image.new("L", (100, 100))]
        data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        limits = ImageLimits(max_pixels=1000)
        assert load_image(data, limits=limits).shape == (4, 4, 3)
        with pytest.raises(ImageError, match="10,000 pixels"):
            load_image(data, frame=1, limits=limits)


class TestBombs:
    """I1 and I2."""

    @pytest.mark.parametrize(
        ("width", "height", "words"),
        [
            (10_001, 10_000, "100,010,000 pixels, the limit is 100,000,000"),
            (20_000, 10_000, "200,000,000 pixels, the limit is 100,000,000"),
            (40_000, 40_000, "more than twice the limit of 100,000,000 pixels"),
        ],
    )
    def test_too_many_pixels(self, width: int, height: int, words: str) -> None:
        with pytest.raises(ImageError, match=words):
            load_image(png(width, height, b""))

    def test_memory_stays_small_for_a_whole_bomb(self, tmp_path: Path) -> None:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", deflated_zeros(12_000 * (3 * 12_000 + 1) // 2**20 + 1))
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b""))
        assert path.stat().st_size < 1_000_000
        code = (
            "import re, sys\n"
            "from pathlib import Path\n"
            "from identisim.images import ImageError, load_image\n"
            "try:\n    load_image(sys.argv[1])\n"
            "except ImageError:\n    status = Path('/proc/self/status').read_text()\n"
            "    print(re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) < 100_000  # kB; decoded, this picture would take 576 MB

    def test_the_limit_of_pillow_does_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(Image.fromarray(noise(40, 40)), "PNG")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for between_warning_and_error in (1000, 100):
                monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", between_warning_and_error)
                assert load_image(data).shape == (40, 40, 3)

    @pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
    def test_a_chunk_that_inflates_to_100_megabytes(self, kind: bytes) -> None:
        extra = chunk(kind, b"k\0\0" + deflated_zeros(100))
        with pytest.raises(ImageError, match="too large"):
            load_image(png(1, 1, b"\0\0", extra=extra))

    def test_too_many_bytes(self, tmp_path: Path) -> None:
        data = encoded(Image.fromarray(noise(20, 20)), "PNG")
        (tmp_path / "a.png").write_bytes(data)
        for source in (data, tmp_path / "a.png"):
            with pytest.raises(ImageError, match="bytes, the limit is 100"):
                load_image(source, limits=ImageLimits(max_bytes=100))

    def test_a_sparse_file_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "a.png").open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(ImageError, match="1,099,511,627,776 bytes"):
            load_image(tmp_path / "a.png")


class TestDamage:
    """I3 and I8."""

    @pytest.mark.parametrize("lenient", [False, True])
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
    def test_a_cut_file_is_refused_or_whole(
        self, form: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # other libraries set this flag for the whole process, and then half-grey pictures come out
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
        data = encoded(Image.fromarray(noise(64, 64)), form)
        whole = load_image(data)
        for kept in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            with pytest.raises(ImageError):
                load_image(data[: int(kept * len(data))])
        for missing in range(1, 16):
            try:
                np.testing.assert_array_equal(load_image(data[:-missing]), whole)
            except ImageError as error:
                assert "cannot read bytes" in str(error)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "0 bytes"),
            (b"\n <!DOCTYPE html><html><body>404</body></html>", "HTML page"),
            (b"<html>", "HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "JPEG, PNG"),
            (b"%PDF-1.7\n", "JPEG, PNG"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG"),
            (b"GIF89a", "cannot read"),
            (png(0, 5, b""), "cannot read"),
            (bytes(1000), "JPEG, PNG"),
        ],
    )
    def test_what_is_no_picture_is_named(self, data: bytes, words: str, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").write_bytes(data)
        with pytest.raises(ImageError, match=r"photo\.jpg") as caught:
            load_image(tmp_path / "photo.jpg")
        assert words in str(caught.value)
        with pytest.raises(ImageError, match="cannot read bytes"):
            load_image(data)

    def test_postscript_never_reaches_its_plugin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from PIL import EpsImagePlugin

        started: list[object] = []
        monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: started.append(args))
        eps = encoded(Image.fromarray(noise(4, 4)), "EPS")
        with pytest.raises(ImageError):
            load_image(eps)
        assert not started

    @given(st.data())
    @settings(deadline=None, max_examples=60)
    def test_damaged_bytes_give_a_picture_or_an_image_error(self, draw: st.DataObject) -> None:
        form = draw.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]))
        data = bytearray(encoded(Image.fromarray(noise(8, 8)), form))
        for _ in range(draw.draw(st.integers(1, 8))):
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
        try:
            loaded = load_image(bytes(data), limits=ImageLimits(max_pixels=10_000))
        except ImageError:
            return
        assert loaded.dtype == np.uint8
        assert loaded.ndim == 3


class TestFiles:
    """I9 and I10."""

    @pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
    def test_extreme_shapes(self, shape: tuple[int, int]) -> None:
        pixels = noise(*shape)
        loaded = load_image(encoded(Image.fromarray(pixels), "PNG"))
        np.testing.assert_array_equal(loaded, pixels)
        long = pytest.warns(AspectWarning, match="10000 pixels long is over 10 times")
        warned = long if max(shape) > 1 else nullcontext()
        for mode in ("square", "pad", "crop"):
            with warned:
                assert np.isfinite(Preprocessing(32, mode)(loaded)).all()

    def test_only_regular_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo.png")
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
        for name in ("fifo.png", "folder.png", "/dev/zero"):
            with pytest.raises(ImageError, match="not a regular file"):
                load_image(tmp_path / name)
        for name in ("missing.png", "loop.png", "null\0byte.png"):
            with pytest.raises(ImageError, match="cannot read"):
                load_image(str(tmp_path / name))

    def test_a_link_to_a_file_is_followed(self, tmp_path: Path) -> None:
        save_png(tmp_path / "a.png", noise(3, 3))
        (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
        np.testing.assert_array_equal(load_image(tmp_path / "b.png"), noise(3, 3))


def test_pillow_globals_are_put_back_after_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)
    data, before = encoded(Image.fromarray(noise(40, 40)), "PNG"), list(warnings.filters)
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                load_image(data)  # 1,600 pixels: an error by Pillow's own limit
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Image.MAX_IMAGE_PIXELS == 12
    assert list(warnings.filters) == before


class TestAsSequence:
    @pytest.mark.parametrize(
        "single",
        ["a.png", b"x", Path("a.png"), Image.new("L", (1, 1)), np.zeros((2, 2, 3)), torch.zeros(3, 2, 2)],
        ids=["str", "bytes", "path", "pil", "array", "tensor"],
    )
    def test_one_picture_is_a_sequence_of_one(self, single: object) -> None:
        sequence = as_sequence(single)  # type: ignore[arg-type]
        assert len(sequence) == 1
        assert sequence[0] is single

    def test_batches_are_taken_apart(self) -> None:
        batch = np.stack([noise(4, 5, seed) for seed in range(3)])
        for images in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
            sequence = as_sequence(images)
            assert len(sequence) == 3
            for image, expected in zip(sequence, batch, strict=True):
                np.testing.assert_array_equal(load_image(image), expected)

    def test_iterables_are_listed(self) -> None:
        assert as_sequence(name for name in ("a", "b")) == ["a", "b"]
        assert as_sequence(("a", b"b")) == ["a", b"b"]
        assert as_sequence([]) == []
        with pytest.raises(InputError, match="int"):
            as_sequence(3)  # type: ignore[arg-type]


class TestListImages:
    def test_sorted_recursive_and_by_suffix(self, tmp_path: Path) -> None:
        for name in ("b/2.JPG", "b/10.png", "a.webp", ".hidden.png", ".git/x.png", "notes.txt", "b-c/1.tiff"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "gone.gif").symlink_to(tmp_path / "nowhere")
        found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
        # a dangling link is listed, so that reading it reports the fault
        assert found == ["a.webp", "b-c/1.tiff", "b/10.png", "b/2.JPG", "gone.gif"]

    def test_faults(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            list_images(tmp_path / "missing")
        (tmp_path / "a.txt").touch()
        with pytest.raises(InputError, match="is a file"):
            list_images(tmp_path / "a.txt")
        with pytest.raises(InputError, match=r"\.jpg.*\.gif"):
            list_images(tmp_path)


class TestTools:
    def test_resize(self) -> None:
        pixels = noise(30, 40)
        expected = Image.fromarray(pixels).resize((17, 50), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(resize(pixels, 50, 17), expected)
        assert resize(pixels[..., 0], 5, 6).shape == (5, 6)
        with pytest.raises(InputError, match="float64"):
            resize(pixels / 255, 5, 5)

    def test_crop_to_mask(self) -> None:
        image, mask = noise(20, 30), np.zeros((20, 30), bool)
        mask[5:9, 10:20] = True
        np.testing.assert_array_equal(crop_to_mask(image, mask), image[5:9, 10:20])
        np.testing.assert_array_equal(crop_to_mask(image, mask, margin=0.5), image[3:11, 5:25])
        np.testing.assert_array_equal(crop_to_mask(image, mask * np.uint8(255), margin=9), image)
        with pytest.raises(InputError, match="empty"):
            crop_to_mask(image, mask & False)
        with pytest.raises(InputError, match=r"\(20, 30\)"):
            crop_to_mask(image, mask[1:])

    def test_composite(self) -> None:
        front, back = noise(6, 6, 1), noise(6, 6, 2)
        mask = np.zeros((6, 6), bool)
        mask[2:4] = True
        np.testing.assert_array_equal(composite(front, mask, back), np.where(mask[..., None], front, back))
        half = composite(front, np.full((6, 6), 0.5), (0, 0, 100))
        np.testing.assert_array_equal(half, np.rint(front / 2 + np.array([0, 0, 50])))
        with pytest.raises(InputError, match="background"):
            composite(front, mask, back[1:])
        with pytest.raises(InputError, match="NaN"):
            composite(front, np.full((6, 6), np.nan), back)

    def test_coverage(self) -> None:
        mask = np.zeros((4, 5), bool)
        mask[0] = True
        for same in (mask, mask.astype(np.uint8), mask * np.uint8(255), mask.astype(np.float32)):
            assert coverage(same) == 0.25
        with pytest.raises(InputError, match=r"\(4, 5, 1\)"):
            coverage(mask[..., None])

    @pytest.mark.parametrize("shape", [(40, 30), (1, 1), (2, 3), (1, 9)])
    def test_blur_score_equals_opencv(self, shape: tuple[int, int]) -> None:
        pixels = noise(*shape)
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        assert blur_score(pixels) == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=1e-12)
        assert blur_score(grey) == blur_score(pixels)

    def test_blur_score_falls_with_blur(self) -> None:
        sharp = noise(64, 64)
        scores = [blur_score(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
        assert scores == sorted(scores, reverse=True)


class TestSavePng:
    def test_round_trip(self, tmp_path: Path) -> None:
        save_png(tmp_path / "a.png", noise(5, 6))
        np.testing.assert_array_equal(load_image(tmp_path / "a.png"), noise(5, 6))
        mask = noise(5, 6)[..., 0] > 128
        save_png(tmp_path / "mask.png", mask)
        np.testing.assert_array_equal(load_image(tmp_path / "mask.png")[..., 0], mask * 255)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "mask.png"]

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.png"
        save_png(path, noise(5, 6))
        before = path.read_bytes()

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_png(path, noise(9, 9))
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_floats_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="float64"):
            save_png(tmp_path / "a.png", np.zeros((4, 4)))


@pytest.mark.filterwarnings("ignore::identisim.images.AspectWarning")
class TestPreprocessing:
    def test_square_is_pillow_bicubic(self) -> None:
        pixels = noise(30, 40)
        expected = np.asarray(Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)) / 255
        out = Preprocessing(24)(pixels)
        assert (out.shape, out.dtype) == ((3, 24, 24), np.float32)
        np.testing.assert_allclose(out, expected.transpose(2, 0, 1), atol=1e-6)

    def test_mean_and_std(self) -> None:
        pixels = noise(8, 8)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        out = Preprocessing(8, mean=mean, std=std)(pixels)
        np.testing.assert_allclose(out, ((pixels / 255 - mean) / std).transpose(2, 0, 1), atol=1e-5)

    def test_pad_keeps_the_aspect_between_grey_borders(self) -> None:
        out = Preprocessing(20, "pad")(np.full((10, 40, 3), 255, np.uint8)) * 255
        np.testing.assert_allclose(out[:, :7], 128, atol=1e-4)
        np.testing.assert_allclose(out[:, 7:12], 255, atol=1e-4)
        np.testing.assert_allclose(out[:, 12:], 128, atol=1e-4)

    def test_crop_is_the_centre_of_the_resized_picture(self) -> None:
        pixels = noise(40, 80)
        resized = np.asarray(Image.fromarray(pixels).resize((40, 20), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(
            Preprocessing(20, "crop")(pixels) * 255, resized[:, 10:30].transpose(2, 0, 1), atol=1e-4
        )

    def test_the_order_of_the_passes_is_ours(self) -> None:
        # Pillow 12 and 13 differ here by tens of levels when they are left to choose
        pixels = noise(500, 30) // 128 * 255
        wide = Image.fromarray(pixels).resize((37, 500), Image.Resampling.BICUBIC)
        expected = np.asarray(wide.resize((37, 37), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(resize(pixels, 37, 37), expected)
        np.testing.assert_allclose(Preprocessing(37)(pixels) * 255, expected.transpose(2, 0, 1), atol=1e-4)

    def test_a_very_tall_picture_takes_little_memory(self) -> None:
        tall = np.zeros((1_000_000, 1, 3), np.uint8)
        assert Preprocessing(448)(tall).shape == (3, 448, 448)
        assert Preprocessing(448, "crop")(tall).shape == (3, 448, 448)

    def test_fingerprint_covers_every_field_and_is_stable(self) -> None:
        base = Preprocessing(224)
        variants = [
            base,
            Preprocessing(225),
            Preprocessing(224, "pad"),
            Preprocessing(224, mean=(0.5, 0.5, 0.5)),
            Preprocessing(224, std=(0.5, 0.5, 0.5)),
            Preprocessing(224, version=2),
        ]
        assert len({variant.fingerprint for variant in variants}) == len(variants)
        assert Preprocessing(224, mean=(0, 0, 0), std=(1, 1, 1)).fingerprint == base.fingerprint
        code = "from identisim.images import Preprocessing; print(Preprocessing(224).fingerprint)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == base.fingerprint

    @pytest.mark.parametrize(
        "fields",
        [{"size": 0}, {"mode": "stretch"}, {"mean": (0.5,)}, {"std": (1, 0, 1)}],
    )
    def test_impossible_fields(self, fields: dict[str, object]) -> None:
        with pytest.raises(InputError):
            Preprocessing(**{"size": 8, **fields})  # type: ignore[arg-type]

    def test_other_arrays_are_refused(self) -> None:
        for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)):
            with pytest.raises(InputError, match=r"\(H, W, 3\) uint8"):
                Preprocessing(8)(wrong)
