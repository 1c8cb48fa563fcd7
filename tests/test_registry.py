"""Names of metrics and their cards: the grammar, and what every card promises, checked card by card."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import toy_backbones as toys
from identisim.downloads import DownloadError
from identisim.errors import InputError
from identisim.extras import MODULES, missing_modules
from identisim.images import Preprocessing
from identisim.metrics import registry
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import SCORES, EmbeddingMetric, Metric, PairMetric
from identisim.metrics.network import NetworkEncoder
from identisim.metrics.registry import ALIASES, METRICS, build, find_card, weights_present
from identisim.models.tokens import Tokens

FETCHED = sorted(name for name, card in METRICS.items() if card.sources)
HERE = sorted(METRICS.keys() - set(FETCHED))


class Means(nn.Module):
    """Mean colours of squares of 8 pixels."""

    def forward(self, pixels: Tensor) -> Tokens:
        patches = nn.functional.avg_pool2d(pixels, 8).permute(0, 2, 3, 1)
        return Tokens(patches.mean((1, 2)), patches)


def build_toy(name: str, patch: int | None) -> EmbeddingMetric:
    return EmbeddingMetric(name, NetworkEncoder(Means(), "cpu", patch), Preprocessing(32), f"{name}:0")


def build_pairs(device: str, folders: tuple[Path, ...]) -> PairMetric:
    return PairMetric("pairs", lambda _a, _b: 1.0, "pairs:0")


def card(
    name: str, builder: Callable[[str, tuple[Path, ...]], Metric], scores: tuple[str, ...]
) -> MetricCard:
    return MetricCard(name, "a toy", "none", "none", scores, (-1.0, 1.0), builder)


@pytest.fixture(autouse=True)
def toy_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "toy", card("toy", lambda _d, _f: build_toy("toy", 8), SCORES))
    monkeypatch.setitem(
        METRICS, "rigid", card("rigid", lambda _d, _f: build_toy("rigid", None), ("cls", "joint"))
    )
    monkeypatch.setitem(METRICS, "pairs", card("pairs", build_pairs, ("pixels",)))


class TestGrammar:
    @pytest.mark.parametrize(
        ("name", "full"),
        [
            ("toy", "toy"),
            ("toy@64", "toy@64"),
            ("toy@064", "toy@64"),
            ("toy+crop", "toy+crop"),
            ("toy+ffa", "toy+ffa"),
            ("toy@64+crop+ffa", "toy@64+crop+ffa"),
            ("compact+crop", "compact+crop"),
            ("id-sim", "id-sim-dinov3-l16"),
            ("id-sim@224+crop", "id-sim-dinov3-l16@224+crop"),
            ("dreamsim", "dreamsim-ensemble"),
            ("ffa", "ffa-crop-feat"),
        ],
    )
    def test_a_name_gets_the_card_of_its_metric(self, name: str, full: str) -> None:
        found = find_card(name)
        assert found.name == full
        base = METRICS[full.partition("@")[0].partition("+")[0]]
        assert (found.builder, found.sources) == (base.builder, base.sources)
        # without its background a picture is compared by its vector first
        assert found.scores[0] == ("cls" if "+" in name else base.scores[0])

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "@64",
            "+crop",
            "toy@",
            "toy@-8",
            "toy@6.4",
            "toy@64@64",
            "toy+ffa+crop",
            "toy+crop+crop",
            "toy+",
            "toy@64+x",
        ],
    )
    def test_what_is_no_name_is_refused(self, name: str) -> None:
        for call in (find_card, build):
            with pytest.raises(InputError, match=r"expected NAME\[@SIZE\]\[\+crop\]\[\+ffa\], such as"):
                call(name)

    @pytest.mark.parametrize(
        ("name", "guess"),
        [
            ("dinov2b", "did you mean dinov2-b"),
            ("idsim", "did you mean id-sim"),
            ("dream-sim", "did you mean dreamsim"),
            ("DINOv3-L", "unknown metric 'DINOv3-L'; did you mean dinov3-l"),
            ("zzzzzz", "unknown metric 'zzzzzz'; the metrics are: compact, "),
            ("toi@64+crop", "unknown metric 'toi'; did you mean toy"),
        ],
    )
    def test_unknown_names_are_answered_with_near_ones(self, name: str, guess: str) -> None:
        for call in (find_card, build):
            with pytest.raises(InputError) as caught:
                call(name)
            assert guess in str(caught.value)
            assert all(
                known in str(caught.value) for known in ("compact", "id-sim-dinov2-l14", "lpips-alex", "uned")
            )

    @pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-that-name/weights", "a\0b"])
    def test_names_that_no_path_can_have(self, name: str) -> None:
        with pytest.raises(InputError):
            build(name, device="cpu")

    def test_aliases_lead_to_metrics(self) -> None:
        assert set(ALIASES) == {"id-sim", "ffa", "dreamsim"}
        assert all(target in METRICS and alias not in METRICS for alias, target in ALIASES.items())

    @pytest.mark.parametrize("size", [8, 24, 64])
    def test_a_size_is_what_pictures_are_brought_to(self, size: int) -> None:
        metric: Any = build(f"toy@{size}")
        assert metric.tokens(toys.picture(0)).patches.shape == (1, size // 8, size // 8, 3)
        assert (metric.name, metric.preprocessing.size) == (f"toy@{size}", size)
        prints = {build(f"toy@{side}").fingerprint for side in (8, 24, 64)} | {build("toy").fingerprint}
        assert len(prints) == 4

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("toy@41", "toy takes sizes that are multiples of 8; got 41: choose 40 or 48"),
            ("toy@7", "multiples of 8; got 7: choose 8"),
            ("toy@0", "multiples of 8; got 0: choose 8"),
            ("rigid@64", "rigid has one input size only: leave @64 out"),
            ("pairs@64", "pairs has one input size only"),
            ("pairs+crop", r"need a metric with embeddings; pairs compares pictures pair by pair"),
        ],
    )
    def test_what_a_metric_cannot_do_is_refused(self, name: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            build(name)

    def test_scores_are_chosen_from_the_card(self) -> None:
        assert build("rigid", score="joint").score == "joint"
        with pytest.raises(InputError, match="rigid has no score kind 'ot'; choose one of: cls, joint"):
            build("rigid", score="ot")
        assert find_card("rigid+ffa").scores == ("cls", "joint")

    @pytest.mark.parametrize(
        ("name", "share", "outside"),
        [("toy+crop", 0.25, 0.0), ("toy+ffa", 1.0, 1.0), ("toy+crop+ffa", 1.0, 0.0)],
    )
    def test_isolated_metrics_look_at_the_object_only(
        self, name: str, share: float, outside: float, tmp_path: Path
    ) -> None:
        colour = np.array([200, 30, 90], np.uint8)
        picture = np.full((32, 32, 4), (255, 255, 255, 0), np.uint8)
        picture[8:24, 8:24] = (*colour, 255)  # four patches of sixteen
        Image.fromarray(picture).save(tmp_path / "object.png")
        metric: Any = build(name, foreground="alpha")
        found = metric.tokens(str(tmp_path / "object.png"))
        # crop: the mean of all patches, of which the background is black; ffa: that of the object's in any case
        assert found.cls[0].numpy() == pytest.approx(share * colour / 255, abs=1e-6)
        assert found.patches[0, 0, 0].tolist() == pytest.approx([outside] * 3, abs=1e-6)
        assert found.patches[0, 1, 1].numpy() == pytest.approx(colour / 255, abs=1e-6)

    def test_isolation_is_part_of_name_and_fingerprint(self) -> None:
        names = ("toy", "toy+crop", "toy+ffa", "toy+crop+ffa", "toy@64+ffa")
        metrics = [build(name) for name in names]
        assert [metric.name for metric in metrics] == list(names)
        assert len({metric.fingerprint for metric in metrics}) == 5
        assert [registry.isolates(name) for name in names] == [False, True, True, True, True]
        assert registry.isolates("ffa") and registry.isolates("ffa-crop-img")
        assert not registry.isolates("compact")

    def test_a_foreground_is_for_isolated_metrics(self) -> None:
        with pytest.raises(InputError, match=r"toy looks at whole pictures: .*toy\+crop"):
            build("toy", foreground="alpha")
        with pytest.raises(InputError, match="unknown foreground 'nothing'; expected compact, alpha"):
            build("toy+crop", foreground="nothing")

    def test_the_fingerprint_of_another_size_depends_on_the_weights(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = build("toy@64").fingerprint
        retrained = replace(build_toy("toy", 8), fingerprint="toy:1")
        monkeypatch.setitem(METRICS, "toy", card("toy", lambda _d, _f: retrained, SCORES))
        assert build("toy@64").fingerprint != before

    def test_what_is_not_installed_is_missed_before_anything_is_fetched(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        block_sockets(monkeypatch)
        monkeypatch.setitem(MODULES, "backbones", ("no_such_module",))
        for name in ("dinov2-b", "id-sim", "dreamsim", "nearid", "uned"):
            with pytest.raises(
                InputError, match=r"needs no_such_module, .*pip install 'identisim\[backbones\]'"
            ):
                build(name, device="cpu")


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "c++@home" / "my+crop"  # nothing of this is grammar
        toys.hub_network("dinov2").save_pretrained(folder)
        return folder

    def test_a_path_is_a_metric(self, folder: Path) -> None:
        metric: Any = build(str(folder), device="cpu")
        assert (metric.name, metric.preprocessing.size) == ("my+crop", 32)
        assert metric.similarity(toys.picture(1), toys.picture(1))[0] == pytest.approx(1, abs=1e-6)
        found = find_card(str(folder))
        assert (found.name, found.sources, found.scores) == ("my+crop", (), SCORES)
        assert build(str(folder), score="patch", device="cpu").score == "patch"

    def test_a_path_may_have_a_size_and_a_crop_behind_it(self, folder: Path) -> None:
        plain = folder.parent.parent / "plain"
        folder.rename(plain)
        metric: Any = build(f"{plain}@48+crop", device="cpu")
        assert metric.name == "plain@48+crop" and metric.preprocessing.size == 48
        with pytest.raises(InputError, match="plain takes sizes that are multiples of 8; got 50"):
            build(f"{plain}@50", device="cpu")

    def test_a_name_is_a_metric_even_beside_a_folder_of_that_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("toy", "dreamsim", "id-sim"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        assert build("toy").name == "toy"
        assert find_card("dreamsim").name == "dreamsim-ensemble"
        assert find_card("id-sim").sources

    @pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
    def test_pictures_are_prepared_as_publishers_of_that_kind_do(self, tmp_path: Path, kind: str) -> None:
        toys.hub_network(kind, image_size=36).save_pretrained(tmp_path)
        metric: Any = build(str(tmp_path), device="cpu")
        expected = {
            "clip": Preprocessing(36, mode="crop", mean=toys.OPENAI[0], std=toys.OPENAI[1]),  # type: ignore[arg-type]
            "siglip": Preprocessing(36, filter="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
            "vit": Preprocessing(36, mean=toys.IMAGENET[0], std=toys.IMAGENET[1]),  # type: ignore[arg-type]
        }[kind]
        assert metric.preprocessing == expected
        assert metric.tokens(toys.picture(0)).patches.shape[1:3] == (4, 4)

    def test_weights_of_ones_own_for_a_metric_without_any(self, folder: Path) -> None:
        with pytest.raises(InputError, match="compact takes no weights of yours"):
            build("compact", weights=folder)

    def test_weights_of_another_network_are_refused(self, folder: Path) -> None:
        torch.save(toys.meta_state(toys.DINO), folder / "a.pth")
        metric: Any = build(
            "dinov2-b", weights=folder, device="cpu"
        )  # the configuration decides, not the name
        assert metric.name == "dinov2-b"
        (folder / "config.json").unlink()
        with pytest.raises(
            InputError, match=r"just one weights file; weights found: a\.pth, model\.safetensors"
        ):
            build("dinov2-b", weights=folder, device="cpu")


class TestCards:
    def test_what_users_look_for_is_there(self) -> None:
        real = set(METRICS) - {"toy", "rigid", "pairs"}
        assert {
            "compact",
            "id-sim-dinov3-l16",
            "ffa-crop-feat",
            "dinov2-b",
            "clip-l14-336",
            "siglip2",
            "nearid",
        } <= set(real)
        assert set(HERE) | set(FETCHED) == set(real)

    @pytest.mark.parametrize("name", [*HERE, *FETCHED])
    def test_a_card_is_complete(self, name: str) -> None:
        found = METRICS[name]
        assert found.name == name and find_card(name) == found
        for text in (found.what, found.size, found.licence):
            assert text and "\n" not in text
        assert found.scores and (set(found.scores) <= set(SCORES) or len(found.scores) == 1)
        assert np.isfinite(found.range).all() and found.range[0] < found.range[1]
        assert found.extra is None or found.extra in MODULES
        assert found.weights is None or resources.files("identisim").joinpath(found.weights).is_file()
        assert callable(found.builder)

    @pytest.mark.parametrize("name", FETCHED)
    def test_sources_are_complete(self, name: str) -> None:
        found = METRICS[name]
        assert found.paper and found.input and found.weights is None
        assert len({source.folder for source in found.sources}) == len(found.sources)
        for source in found.sources:
            assert source.files and source.licence and source.page.startswith("https://")
            assert not Path(source.folder).is_absolute() and ".." not in Path(source.folder).parts
            assert source.instead == "" or source.instead in METRICS
            for file in source.files:
                assert file.url.startswith("https://") or (file.url == "" and source.gated)
                assert file.sha256 is None or (len(file.sha256) >= 8 and int(file.sha256, 16) >= 0)
                assert all(member and target for member, target in file.members)
        # what is shared is the same everywhere: one folder, one set of files
        for other in METRICS.values():
            for mine in found.sources:
                assert all(
                    mine.files == theirs.files for theirs in other.sources if theirs.folder == mine.folder
                )

    @pytest.mark.parametrize("name", FETCHED)
    def test_a_gated_metric_names_one_that_is_not(self, name: str) -> None:
        for source in METRICS[name].sources:
            if source.gated and source.instead:
                assert not METRICS[source.instead].gated

    @pytest.mark.parametrize("name", FETCHED)
    def test_without_weights_and_network_one_line_says_what_to_do(
        self, name: str, monkeypatch: pytest.MonkeyPatch, empty_caches: Path
    ) -> None:
        monkeypatch.setenv("IDENTISIM_OFFLINE", "1")
        block_sockets(monkeypatch)
        assert not weights_present(METRICS[name])
        start = time.monotonic()
        with pytest.raises(InputError) as caught:
            build(name, device="cpu")
        assert time.monotonic() - start < 5
        message, extra = str(caught.value), METRICS[name].extra
        assert "\n" not in message and name in message
        if extra and missing_modules(extra):
            assert f"pip install 'identisim[{extra}]'" in message
            return
        first = METRICS[name].sources[0]
        assert isinstance(caught.value, DownloadError)
        assert first.folder in message and first.files[0].name in message
        assert str(empty_caches / "identisim") in message
        assert f"load_metric({name!r}, weights=FOLDER)" in message and "--weights FOLDER" in message
        if first.files[0].url:
            assert f"`identisim pull {name}`" in message and "IDENTISIM_OFFLINE" in message
        else:
            assert first.page in message

    @pytest.mark.parametrize("name", HERE)
    def test_metrics_without_sources_need_no_network(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        block_sockets(monkeypatch)
        assert weights_present(METRICS[name])
        metric = build(name, device="cpu")
        assert (metric.name, metric.score) == (name, METRICS[name].scores[0])
        low, high = METRICS[name].range
        assert low <= float(metric.similarity(toys.picture(1), toys.picture(2))[0]) <= high

    @pytest.mark.parametrize("name", FETCHED)
    def test_every_builder_can_be_called_and_names_what_it_misses(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = METRICS[name]
        if found.extra and missing_modules(found.extra):
            pytest.skip(f"needs identisim[{found.extra}]")
        block_sockets(monkeypatch)
        folders = tuple(tmp_path / source.folder for source in found.sources)
        for folder in folders:
            folder.mkdir(parents=True)
        with pytest.raises(InputError) as caught:
            found.builder("cpu", folders)
        assert any(str(folder) in str(caught.value) for folder in folders)


def block_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_looking_at_all_cards_loads_no_library_of_networks() -> None:
    code = (
        "import sys\n"
        "from identisim.metrics.registry import METRICS, find_card, weights_present\n"
        "print(len([weights_present(find_card(name)) for name in METRICS]))\n"
        "print([m for m in ('torch', 'transformers', 'diffusers', 'cv2', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(len(METRICS) - 3), "[]"]
