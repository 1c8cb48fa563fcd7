"""`identisim pull`, and what `identisim metrics` and `identisim doctor` say of weights."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from identisim import cli, extras
from identisim.doctor import examine
from identisim.errors import InputError
from identisim.metrics.card import MetricCard
from identisim.metrics.metric import Metric, PairMetric
from identisim.metrics.registry import METRICS
from identisim.sources import RemoteFile, Source
from weights_server import Reply, WeightsServer, serving

BODY = b"weights" * 200_000
PAGE = "https://example.org/net"


def toy(_device: str, _folders: tuple[Path, ...]) -> Metric:
    return PairMetric("toy", lambda _a, _b: 1.0, "toy:0")


def card(name: str, *sources: Source, **facts: object) -> MetricCard:
    known: dict[str, object] = {"what": "a toy", "size": "1.4 MB", "licence": "MIT", **facts}
    return MetricCard(name, scores=("cls",), range=(-1, 1), builder=toy, sources=sources, **known)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing of this machine is seen, and `ssim` is the only metric at first."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "IDENTISIM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IDENTISIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setitem(extras.MODULES, "teleport", ("no_such_module",))
    known = dict(METRICS)
    METRICS.clear()
    METRICS["ssim"] = known["ssim"]
    yield tmp_path / "home"
    METRICS.clear()
    METRICS.update(known)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """It has the weights of two metrics, toy and research, which share one source."""
    with serving() as running:
        running.replies = {"/a.bin": [Reply(BODY)], "/b.bin": [Reply(b"{}")]}
        a = Source("maker/a", (RemoteFile("a.bin", f"{running.url}/a.bin", size=len(BODY)),), "MIT", PAGE)
        b = Source(
            "maker/b",
            (RemoteFile("b.bin", f"{running.url}/b.bin"),),
            "CC-BY-NC-4.0",
            "https://example.org/b",
            gated=True,
            commercial=False,
            instead="toy",
        )
        paper = "Maker et al., 2020"
        monkeypatch.setitem(METRICS, "toy", card("toy", a, paper=paper, input="448 × 448, squashed"))
        monkeypatch.setitem(METRICS, "research", card("research", a, b, licence="MIT; CC-BY-NC-4.0"))
        yield running


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestPull:
    def test_prints_licence_size_and_folder_and_asks_once(
        self, server: WeightsServer, own_folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capsys, "pull", "toy", "ssim", "toy")
        lines = [f"toy: maker/a, 1.4 MB, MIT ({PAGE})", f"    {own_folders / 'maker/a'}"]
        assert out.splitlines() == [*lines, "ssim: nothing to download: part of the package", *lines]
        assert (code, err) == (0, "")
        assert (own_folders / "maker/a/a.bin").read_bytes() == BODY
        assert server.asked("/a.bin") == 1

    def test_all_names_are_looked_up_first(
        self, server: WeightsServer, own_folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capsys, "pull", "toy", "tay")
        assert (code, out) == (2, "")
        assert err.startswith("identisim: unknown metric 'tay'; did you mean toy?")
        assert server.requests == []
        assert run(capsys, "pull")[0] == 2

    def test_consent_is_asked_for_once(
        self, server: WeightsServer, own_folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capsys, "pull", "research")
        assert code == 2
        assert "maker/b, size unknown, CC-BY-NC-4.0, non-commercial, gated (https://example.org/b)" in out
        assert "`identisim pull research --accept-licence`" in err
        assert err.count("\n") == 1
        assert server.asked("/b.bin") == 0
        assert run(capsys, "pull", "research", "--accept-licence")[0] == 0
        (own_folders / "maker/b/b.bin").unlink()
        assert run(capsys, "pull", "research")[0] == 0

    def test_to_another_folder_says_how_to_use_it(
        self,
        server: WeightsServer,
        tmp_path: Path,
        own_folders: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stick = tmp_path / "stick"
        code, out, _ = run(capsys, "pull", "toy", "--to", stick)
        assert code == 0
        assert out.splitlines()[1:] == [f"    {stick / 'maker/a'}", f"to use them: IDENTISIM_HOME={stick}"]
        assert not own_folders.exists()
        assert "not downloaded" in run(capsys, "metrics", "toy")[1]
        monkeypatch.setenv("IDENTISIM_HOME", str(stick))
        assert "ready" in run(capsys, "metrics", "toy")[1]

    @pytest.mark.parametrize(("status", "expected"), [(403, 2), (404, 1), (200, 1)])
    def test_misuse_is_2_and_failing_while_working_is_1(
        self, server: WeightsServer, capsys: pytest.CaptureFixture[str], status: int, expected: int
    ) -> None:
        server.replies["/a.bin"] = [Reply(b"<html>", status, {"Content-Type": "text/html"}, length=len(BODY))]
        code, _, err = run(capsys, "pull", "toy")
        assert code == expected
        assert err.startswith("identisim: ")
        assert err.count("\n") == 1
        assert "a.bin" in err

    def test_offline_is_misuse(
        self, blocked: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        files = (RemoteFile("a.bin", "http://127.0.0.1:9/a.bin"),)
        monkeypatch.setitem(METRICS, "toy", card("toy", Source("maker/a", files, "MIT", PAGE)))
        monkeypatch.setenv("IDENTISIM_OFFLINE", "1")
        code, _, err = run(capsys, "pull", "toy")
        assert code == 2
        assert "IDENTISIM_OFFLINE is set" in err


class TestMetrics:
    def test_states_of_weights_and_extras(
        self,
        server: WeightsServer,
        own_folders: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setitem(METRICS, "extra", card("extra", extra="teleport"))
        monkeypatch.setitem(METRICS, "both", card("both", *METRICS["toy"].sources, extra="teleport"))
        run(capsys, "pull", "research", "--accept-licence")
        (own_folders / "maker/a/a.bin").unlink()
        lines = run(capsys, "metrics")[1].splitlines()
        state = {name.split(":")[0]: facts for name, facts in zip(lines[::2], lines[1::2], strict=True)}
        assert "; MIT, free; not downloaded (`identisim pull toy`); scores: cls" in state["toy"]
        assert "MIT; CC-BY-NC-4.0, non-commercial, gated; not downloaded" in state["research"]
        assert "; ready; " in state["ssim"]
        assert "; needs identisim[teleport]; scores: cls; extra: teleport" in state["extra"]
        assert "; needs identisim[teleport], not downloaded (`identisim pull both`); " in state["both"]
        run(capsys, "pull", "toy")
        assert "gated; ready; " in run(capsys, "metrics", "research")[1]

    def test_one_card_in_full(
        self, server: WeightsServer, own_folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(capsys, "pull", "toy")
        code, out, _ = run(capsys, "metrics", "research")
        assert code == 0
        assert out.splitlines() == [
            "research: a toy",
            "    1.4 MB; MIT; CC-BY-NC-4.0, non-commercial, gated; "
            "not downloaded (`identisim pull research`); scores: cls",
            "    similarity -1 to 1, higher = more alike",
            f"    weights maker/a, 1.4 MB, MIT ({PAGE})",
            f"        {own_folders / 'maker/a'}",
            "        a.bin, 1.4 MB",
            "    weights maker/b, size unknown, CC-BY-NC-4.0, non-commercial, gated (https://example.org/b)",
            "        not on this machine",
            "        b.bin, size unknown",
            "        free of these hurdles: toy",
        ]
        out = run(capsys, "metrics", "toy")[1]
        assert "    paper: Maker et al., 2020\n    input: 448 × 448, squashed\n" in out
        assert run(capsys, "metrics", "tay")[0] == 2

    def test_json_has_all_of_it(
        self, server: WeightsServer, own_folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(capsys, "pull", "toy")
        rows = {row["name"]: row for row in json.loads(run(capsys, "metrics", "--json")[1])["metrics"]}
        assert set(rows) == {"ssim", "toy", "research"}
        toy, research = rows["toy"], rows["research"]
        assert (toy["paper"], toy["input"]) == ("Maker et al., 2020", "448 × 448, squashed")
        assert (toy["ready"], toy["weights_present"], toy["commercial"], toy["gated"]) == (
            True,
            True,
            True,
            False,
        )
        assert (research["ready"], research["weights_present"], research["commercial"]) == (
            False,
            False,
            False,
        )
        assert toy["sources"] == [
            {
                "folder": "maker/a",
                "page": PAGE,
                "licence": "MIT",
                "gated": False,
                "commercial": True,
                "instead": None,
                "size": len(BODY),
                "path": str(own_folders / "maker/a"),
                "files": [{"name": "a.bin", "url": f"{server.url}/a.bin", "size": len(BODY), "sha256": None}],
            }
        ]
        assert research["sources"][1]["path"] is None
        assert research["sources"][1]["size"] is None
        assert json.loads(run(capsys, "metrics", "toy", "--json")[1]) == {"metrics": [toy]}

    def test_listing_asks_nobody(
        self, server: WeightsServer, blocked: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for arguments in (["metrics"], ["metrics", "--json"], ["metrics", "toy"]):
            assert run(capsys, *arguments)[0] == 0
        assert server.requests == []


class TestDoctor:
    @staticmethod
    def findings() -> dict[str, tuple[str, str, str]]:
        return {found.subject: (found.verdict, found.detail, found.advice) for found in examine()}

    def test_weights_that_were_never_fetched_are_no_trouble_and_are_not_fetched(
        self, server: WeightsServer, own_folders: Path, blocked: None
    ) -> None:
        found = self.findings()
        expected = "2 (toy, research); `identisim pull NAME` fetches what a metric needs"
        assert found["metrics not downloaded"] == ("ok", expected, "")
        assert "metric toy" not in found
        assert found["weights folder"] == ("ok", f"{own_folders}, 0 bytes in it, writable", "")
        assert found["downloads"] == ("ok", "allowed", "")
        assert not own_folders.exists()

    def test_weights_that_cannot_be_used_are_named_with_their_folder(
        self, server: WeightsServer, own_folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_device: str, _folders: tuple[Path, ...]) -> NoReturn:
            raise InputError("a.bin is damaged")

        monkeypatch.setitem(METRICS, "toy", replace(METRICS["toy"], builder=refuse))
        cli.main(["pull", "toy"])
        verdict, detail, advice = self.findings()["metric toy"]
        assert (verdict, detail) == ("warn", "InputError: a.bin is damaged")
        assert f"remove {own_folders / 'maker/a'} and run `identisim pull toy`" in advice
        monkeypatch.setitem(METRICS, "toy", replace(METRICS["toy"], extra="teleport"))
        assert "pip install 'identisim[teleport]'" in self.findings()["metric toy"][2]

    def test_what_lies_in_the_folder_is_added_up_and_the_switch_named(
        self, own_folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (own_folders / "maker/a").mkdir(parents=True)
        (own_folders / "maker/a/a.bin").write_bytes(bytes(1_500_000))
        (own_folders / "b.bin").write_bytes(bytes(500_000))
        monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
        found = self.findings()
        assert found["weights folder"] == ("ok", f"{own_folders}, 2 MB in it, writable", "")
        assert found["downloads"] == ("ok", "forbidden: HF_HUB_OFFLINE is set", "")

    def test_a_folder_that_cannot_be_written_to_is_a_warning(self, own_folders: Path) -> None:
        own_folders.write_text("in the way")
        verdict, detail, advice = self.findings()["weights folder"]
        assert (verdict, detail) == ("warn", f"{own_folders}, 0 bytes in it, cannot be written to")
        assert "IDENTISIM_HOME" in advice


def test_what_only_people_can_fetch_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = Source("maker/hand", (RemoteFile("net.pth", ""),), "not stated", PAGE, gated=True)
    monkeypatch.setitem(METRICS, "hand", card("hand", source))
    assert cli.main(["pull", "hand"]) == 2
    complaint = capsys.readouterr().err
    assert (
        f"download it from {PAGE} and save it as {tmp_path / 'home' / 'maker' / 'hand' / 'net.pth'}"
        in complaint
    )
    (tmp_path / "home" / "maker" / "hand").mkdir(parents=True)
    (tmp_path / "home" / "maker" / "hand" / "net.pth").write_bytes(BODY)
    assert cli.main(["pull", "hand"]) == 0
