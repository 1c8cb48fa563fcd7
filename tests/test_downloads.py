"""Fetching weights from a real server in this process, with every fault of servers, networks and disks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import NoReturn

import pytest

from identisim import downloads
from identisim.downloads import DownloadError, TransferError, fetch, home, locate, present, weights_sha256
from identisim.downloads import fetching as fetching_module
from identisim.downloads.remote import Patience
from identisim.errors import InputError
from identisim.records import file_sha256
from identisim.sources import HUB, RemoteFile, Source, hub_source
from weights_server import Reply, WeightsServer, serving

BODY = random.Random(1).randbytes(3_000_000)
SMALL = b'{"hidden_size": 8}'
FAST = Patience(answer=5, stall=1, tries=4, pause=0.01, longest=1)
PAGE = "https://example.org/weights"
COMMIT = "0123456789abcdef" * 2 + "01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "IDENTISIM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IDENTISIM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with serving() as running:
        yield running


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any use of the network fails, whatever part of it comes first."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def one_file(url: str, **facts: object) -> Source:
    file = {name: facts.pop(name) for name in ("sha256", "size", "members", "name") if name in facts}
    remote = RemoteFile(str(file.pop("name", "model.bin")), f"{url}/model.bin", **file)  # type: ignore[arg-type]
    return Source("maker/net", (remote,), "MIT", PAGE, **facts)  # type: ignore[arg-type]


def get(source: Source, **options: object) -> Path:
    options = {"wanted_by": "toy", "patience": FAST, "progress": False, **options}
    return fetch(source, **options)  # type: ignore[arg-type]


def refusal(source: Source, kind: type[InputError] = TransferError, **options: object) -> str:
    """What is said when a source cannot be fetched; nothing may lie under the names of its files then."""
    with pytest.raises(InputError) as caught:
        get(source, **options)
    assert type(caught.value) is kind
    assert locate(source) is None
    names = {Path(name).name for file in source.files for name in (file.name, *dict(file.members).values())}
    assert not [path for path in home().rglob("*") if path.name in names]
    return str(caught.value)


def put(source: Source, *contents: bytes) -> Path:
    folder = home() / source.folder
    for file, content in zip(source.files, contents, strict=True):
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(content)
    return folder


class TestHome:
    def test_the_variable_goes_first_and_may_start_with_a_tilde(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert home() == tmp_path / "home"
        monkeypatch.setenv("HOME", str(tmp_path / "me"))
        monkeypatch.setenv("IDENTISIM_HOME", "~/weights")
        assert home() == tmp_path / "me" / "weights"
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("IDENTISIM_HOME", "here")
        assert home() == tmp_path / "here"

    @pytest.mark.parametrize(
        ("platform", "xdg", "expected"),
        [
            ("linux", "/caches", "/caches/identisim"),
            ("linux", "caches", "/me/.cache/identisim"),
            ("linux", "", "/me/.cache/identisim"),
            ("darwin", "/caches", "/me/Library/Caches/identisim"),
            ("win32", "/caches", "/local/identisim"),
        ],
    )
    def test_without_it_the_systems_folder_of_caches(
        self, monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str, expected: str
    ) -> None:
        monkeypatch.delenv("IDENTISIM_HOME")
        monkeypatch.setenv("HOME", "/me")
        monkeypatch.setenv("LOCALAPPDATA", "/local")
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
        monkeypatch.setattr(sys, "platform", platform)
        assert home() == Path(expected)

    def test_without_any_home_only_fetching_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nowhere() -> NoReturn:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("IDENTISIM_HOME")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", nowhere)
        assert present(())
        assert not present([one_file("http://127.0.0.1:9")])
        with pytest.raises(InputError, match="set IDENTISIM_HOME to a folder"):
            get(one_file("http://127.0.0.1:9"))


class TestLocate:
    def test_a_folder_counts_when_every_file_is_there(self, blocked: None) -> None:
        source = hub_source("maker/net", {"config.json": None, "unet/model.bin": 4}, licence="MIT")
        assert locate(source) is None
        folder = put(source, SMALL, b"abcd")
        assert locate(source) == folder == get(source)
        assert present([source, source])
        (folder / "config.json").unlink()
        assert locate(source) is None
        assert not present([source])

    def test_an_alternative_serves_for_all_files(self, blocked: None) -> None:
        source = Source(
            "owner/net", (RemoteFile("a", ""), RemoteFile("b", "")), "MIT", "page", alternatives=("meta.pth",)
        )
        folder = home() / "owner" / "net"
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(b"1")
        assert locate(source) is None
        (folder / "meta.pth").write_bytes(b"2")
        assert locate(source) == folder and fetch(source, wanted_by="net") == folder

    def test_another_size_than_stated_is_not_the_file(self) -> None:
        source = hub_source("maker/net", {"model.bin": 5}, licence="MIT")
        put(source, b"abcd")
        assert locate(source) is None

    def test_another_version_in_the_cache_is_not_the_file(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(b"abcd"), Reply(b"abce")]
        get(one_file(server.url))
        assert locate(one_file(server.url, sha256=sha256(b"abcd")[:8])) is not None
        newer = one_file(server.url, sha256=sha256(b"abce")[:8])
        assert locate(newer) is None
        assert (get(newer) / "model.bin").read_bytes() == b"abce"

    @staticmethod
    def snapshot(tmp_path: Path, *names: str) -> Path:
        """A repository in the cache of the Hugging Face hub: names are links to blobs."""
        repository = tmp_path / "hf" / "hub" / "models--maker--net"
        folder = repository / "snapshots" / COMMIT
        for name in names:
            blob = repository / "blobs" / sha256(name.encode())
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(b"abcd")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(os.path.relpath(blob, (folder / name).parent))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        return folder

    def test_a_complete_snapshot_of_the_hub_is_used_as_it_is(self, tmp_path: Path, blocked: None) -> None:
        source = hub_source("maker/net", {"config.json": None, "unet/model.bin": 4}, licence="MIT")
        folder = self.snapshot(tmp_path, "config.json", "unet/model.bin")
        assert locate(source) == get(source) == folder
        assert weights_sha256(folder / "unet/model.bin") == sha256(b"abcd")
        assert not home().exists()

    @pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
    def test_the_hub_cache_may_lie_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        folder = self.snapshot(tmp_path, "model.bin")
        source = hub_source("maker/net", {"model.bin": 4}, licence="MIT")
        monkeypatch.setenv(variable, str(tmp_path / "hf" / "hub"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "other"))
        assert locate(source) == folder
        pinned = hub_source("maker/net", {"model.bin": 4}, licence="MIT", revision=COMMIT)
        assert locate(pinned) == folder

    def test_incomplete_or_other_snapshots_are_not_used(self, tmp_path: Path) -> None:
        folder = self.snapshot(tmp_path, "model.bin")
        facts = {"licence": "MIT", "page": PAGE}
        assert locate(hub_source("maker/net", {"model.bin": 4, "more.bin": 4}, licence="MIT")) is None
        assert locate(hub_source("maker/net", {"model.bin": 4}, licence="MIT", revision="v2")) is None
        assert locate(hub_source("maker/other", {"model.bin": 4}, licence="MIT")) is None
        renamed = RemoteFile("weights.bin", f"{HUB}/maker/net/resolve/main/model.bin")
        assert locate(Source("maker/net", (renamed,), **facts)) is None
        elsewhere = RemoteFile("model.bin", "https://example.org/model.bin")
        assert locate(Source("maker/net", (elsewhere,), **facts)) is None
        (folder / "model.bin").resolve().unlink()
        assert locate(hub_source("maker/net", {"model.bin": None}, licence="MIT")) is None


class TestSha256:
    def test_what_was_noted_is_believed_while_size_and_time_agree(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(b"abcd")]
        path = get(one_file(server.url, name="deep/er/model.bin")) / "deep/er/model.bin"
        assert weights_sha256(path) == sha256(b"abcd")
        manifest = home() / "maker/net" / ".identisim.json"
        noted = json.loads(manifest.read_text())
        assert noted["files"]["deep/er/model.bin"]["url"] == f"{server.url}/model.bin"
        noted["files"]["deep/er/model.bin"]["sha256"] = "f" * 64
        manifest.write_text(json.dumps(noted))
        assert weights_sha256(path) == "f" * 64  # so the file was not read
        os.utime(path, ns=(1, 1))
        assert weights_sha256(path) == sha256(b"abcd")

    @pytest.mark.parametrize("manifest", [b"", b"[1]", b'{"files": 3}', b'{"files": {"w": {"size": "x"}}}'])
    def test_a_damaged_note_costs_time_only(self, tmp_path: Path, manifest: bytes) -> None:
        (tmp_path / "w").write_bytes(b"abcd")
        (tmp_path / ".identisim.json").write_bytes(manifest)
        assert weights_sha256(tmp_path / "w") == sha256(b"abcd")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent\.bin: no such weights file"):
            weights_sha256(tmp_path / "absent.bin")


class TestFetch:
    def test_files_come_once_whole_and_noted(self, server: WeightsServer) -> None:
        server.replies["/a/model.bin"] = [Reply(BODY)]
        server.replies["/config.json"] = [Reply(SMALL)]
        files = (
            RemoteFile("unet/model.bin", f"{server.url}/a/model.bin", sha256(BODY).upper(), len(BODY)),
            RemoteFile("config.json", f"{server.url}/config.json"),
        )
        source = Source("maker/net", files, "MIT", PAGE)
        folder = get(source)
        assert folder == home() / "maker/net" == locate(source)
        assert (folder / "unet/model.bin").read_bytes() == BODY
        assert (folder / "config.json").read_bytes() == SMALL
        assert get(source) == folder
        assert len(server.requests) == 2
        visible = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert visible == {"unet/model.bin", "config.json", ".identisim.json", ".identisim.lock"}

    def test_only_what_is_missing_is_fetched(self, server: WeightsServer) -> None:
        server.replies["/b"] = [Reply(b"bbb")]
        files = (RemoteFile("a", f"{server.url}/a", size=3), RemoteFile("b", f"{server.url}/b"))
        source = Source("maker/net", files, "MIT", PAGE)
        (home() / "maker/net").mkdir(parents=True)
        (home() / "maker/net/a").write_bytes(b"aaa")
        get(source)
        assert [path for path, _ in server.requests] == ["/b"]

    def test_to_another_folder_copies_what_is_here(
        self, server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.replies["/model.bin"] = [Reply(BODY)]
        source = one_file(server.url, commercial=False)
        get(source, accept_licence=True)
        monkeypatch.setenv("IDENTISIM_OFFLINE", "1")
        there = get(source, to=tmp_path / "stick")
        assert there == tmp_path / "stick/maker/net"
        assert (there / "model.bin").read_bytes() == BODY
        assert get(source, to=tmp_path / "stick") == there
        assert server.asked("/model.bin") == 1
        monkeypatch.setenv("IDENTISIM_HOME", str(tmp_path / "stick"))
        assert locate(source) == there
        assert weights_sha256(there / "model.bin") == sha256(BODY)

    def test_present_files_need_no_network_at_all(self, blocked: None) -> None:
        source = one_file("http://127.0.0.1:9", commercial=False, gated=True)
        assert put(source, b"abcd") == get(source)
        assert weights_sha256(home() / "maker/net/model.bin") == sha256(b"abcd")
        with pytest.raises(AssertionError, match="the network was used"):
            get(one_file("http://127.0.0.1:9", name="absent.bin"))

    def test_leftovers_of_killed_writers_go(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(b"abcd")]
        (home() / "maker/net").mkdir(parents=True)
        (home() / "maker/net/.model.bin.12345678.tmp").write_bytes(b"x")
        (home() / "maker/net/.model.bin.part").write_bytes(b"x")
        folder = get(one_file(server.url))
        assert {path.name for path in folder.iterdir()} == {
            "model.bin",
            ".identisim.json",
            ".identisim.lock",
        }
        assert (folder / "model.bin").read_bytes() == b"abcd"

    def test_a_name_that_leads_out_of_the_folder_is_refused(self, server: WeightsServer) -> None:
        for name in ("../evil.bin", "/evil.bin", "a/../../evil.bin", "c:evil.bin", "..\\evil.bin"):
            with pytest.raises(InputError, match="expected a path below"):
                get(one_file(server.url, name=name))
        assert server.requests == []


class TestLicence:
    def test_without_consent_nothing_is_asked(self, server: WeightsServer) -> None:
        source = one_file(server.url, commercial=False, instead="compact")
        line = refusal(source, DownloadError)
        assert all(word in line for word in ("MIT", PAGE, "`identisim pull toy --accept-licence`", "compact"))
        assert server.requests == []
        assert not home().exists()

    def test_consent_is_remembered_until_the_licence_changes(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(status=404), Reply(b"abcd")]
        refusal(one_file(server.url, commercial=False), accept_licence=True)
        other = Source("maker/net", one_file(server.url).files, "another licence", PAGE, commercial=False)
        assert "another licence" in refusal(other, DownloadError)
        assert (get(one_file(server.url, commercial=False)) / "model.bin").is_file()

    def test_consent_by_variable(self, server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.replies["/model.bin"] = [Reply(b"abcd")]
        monkeypatch.setenv("IDENTISIM_ACCEPT_LICENCE", "1")
        assert get(one_file(server.url, commercial=False)).is_dir()


class TestOffline:
    @pytest.mark.parametrize("variable", ["IDENTISIM_OFFLINE", "HF_HUB_OFFLINE"])
    def test_the_switch_is_named_and_nothing_is_asked(
        self, blocked: None, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "1")
        line = refusal(one_file("http://127.0.0.1:9", size=345_600_000), DownloadError)
        expected = ("toy needs model.bin", "346 MB", variable, str(home()), "`identisim pull toy`")
        assert all(
            word in line for word in (*expected, "load_metric('toy', weights=FOLDER)", "--weights FOLDER")
        )

    def test_zero_is_off(self, server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server.replies["/model.bin"] = [Reply(b"abcd")]
        monkeypatch.setenv("IDENTISIM_OFFLINE", "0")
        assert get(one_file(server.url)).is_dir()


def closed_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class TestUnreachable:
    words = ("model.bin", "identisim pull toy", "IDENTISIM_OFFLINE", "weights=FOLDER", "--weights FOLDER")

    def test_the_usual_patience_ends_after_five_seconds(self) -> None:
        assert Patience().answer == 5

    def test_nobody_listens(self) -> None:
        url = f"http://127.0.0.1:{closed_port()}"
        start = time.monotonic()
        line = refusal(one_file(url))
        assert time.monotonic() - start < 4
        assert all(word in line for word in (*self.words, f"{url}/model.bin", str(home()), "refused"))

    def test_somebody_listens_and_says_nothing(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            start = time.monotonic()
            line = refusal(
                one_file(f"http://127.0.0.1:{silent.getsockname()[1]}"),
                patience=Patience(answer=0.4, stall=0.6),
            )
            assert time.monotonic() - start < 2
            time.sleep(0.5)  # the thread that waits gives up
        assert "no answer within 0.4 s" in line
        assert all(word in line for word in self.words)

    def test_a_name_server_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = threading.Event()

        def hang(*_: object, **__: object) -> NoReturn:
            done.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        start = time.monotonic()
        line = refusal(one_file("http://weights.invalid"), patience=Patience(answer=0.3))
        assert time.monotonic() - start < 2
        done.set()
        assert "no answer within 0.3 s" in line
        line = refusal(one_file("http://weights.invalid"))
        assert "Temporary failure in name resolution" in line

    def test_a_connection_that_is_always_cut_ends_in_time(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(status=0)]
        start = time.monotonic()
        line = refusal(one_file(server.url), patience=Patience(answer=0.5, pause=0.1, tries=100))
        assert time.monotonic() - start < 2
        assert "cannot be reached (the connection broke" in line
        assert server.asked("/model.bin") > 1


class TestServerFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            Reply(b"busy", 503),
            Reply(b"slower", 429, {"Retry-After": "0"}),
            Reply(b"slower", 429, {"Retry-After": formatdate(0, usegmt=True)}),
            Reply(b"broken", 500, {"Retry-After": "soon"}),
            Reply(status=0),
            Reply(BODY, cut=1000),
            Reply(BODY, cut=2_500_000, stall=1.5),
        ],
        ids=["503", "429", "429 until a date", "500", "no answer", "cut", "stall"],
    )
    def test_what_passes_is_tried_again(self, server: WeightsServer, fault: Reply) -> None:
        server.replies["/model.bin"] = [fault, Reply(BODY)]
        folder = get(one_file(server.url))
        assert (folder / "model.bin").read_bytes() == BODY
        assert server.asked("/model.bin") == 2
        assert "Range" not in server.requests[1][1]

    def test_tries_have_an_end(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(b"busy", 503)]
        line = refusal(one_file(server.url))
        assert "HTTP 503" in line
        assert "given up after 4 tries" in line
        assert server.asked("/model.bin") == 4

    def test_too_long_a_wait_is_not_waited_for(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(b"", 429, {"Retry-After": "300"})]
        assert "asks to wait 300 s" in refusal(one_file(server.url))
        assert server.asked("/model.bin") == 1

    def test_404_is_final(self, server: WeightsServer) -> None:
        line = refusal(one_file(server.url))
        assert "HTTP 404" in line
        assert "update identisim" in line
        assert server.asked("/model.bin") == 1

    @pytest.mark.parametrize(
        ("reply", "facts", "words"),
        [
            (Reply(b"abcd"), {"sha256": "0" * 64}, [sha256(b"abcd"), "expected 0000", "damaged"]),
            (Reply(b"abcd"), {"sha256": "12345678"}, [sha256(b"abcd"), "expected 12345678"]),
            (Reply(b"abcd"), {"size": 5}, ["offers 4 bytes", "expected 5"]),
            (Reply(b"<html>", headers={"Content-Type": "text/html; charset=utf-8"}), {}, ["HTML page"]),
            (Reply(b"\n<!DOCTYPE html><html>Sign in"), {}, ["HTML page"]),
            (Reply(b"version https://git-lfs.github.com/spec/v1\n"), {}, ["git-lfs pointer"]),
            (Reply(b""), {}, ["an empty file"]),
            (Reply(b"abcd", length=-1), {}, ["does not say how long"]),
            (Reply(b"abcd", headers={"Content-Encoding": "gzip"}), {}, ["compresses"]),
            (Reply(b"", 418), {}, ["HTTP 418"]),
            (Reply(b"", 302, {"Location": "/model.bin"}), {}, ["HTTP 302", "infinite loop"]),
            (Reply(b"", 302, {"Location": "ftp://example.org/model.bin"}), {}, ["redirects", "ftp"]),
        ],
        ids=str,
    )
    def test_what_is_not_the_file_is_refused_at_once(
        self, server: WeightsServer, reply: Reply, facts: dict[str, object], words: list[str]
    ) -> None:
        server.replies["/model.bin"] = [reply]
        line = refusal(one_file(server.url, **facts))
        assert all(word in line for word in (*words, f"{server.url}/model.bin", "identisim pull toy"))
        assert not list(home().rglob("*.part*"))

    def test_a_length_that_is_not_told_does_not_matter_where_the_hash_is_known(
        self, server: WeightsServer
    ) -> None:
        server.replies["/model.bin"] = [Reply(BODY, length=-1)]
        folder = get(one_file(server.url, sha256=sha256(BODY)))
        assert (folder / "model.bin").read_bytes() == BODY
        server.replies["/model.bin"] = [Reply(BODY[:-1], length=-1)]
        assert "expected" in refusal(one_file(server.url, sha256=sha256(BODY)[:8], name="other.bin"))

    def test_an_address_without_a_scheme_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "mirror.example.org")
        line = refusal(hub_source("maker/net", {"model.bin": None}, licence="MIT"))
        assert "mirror.example.org/maker/net/resolve/main/model.bin: expected a URL" in line
        assert "HF_ENDPOINT" in line


class TestResume:
    def test_a_cut_goes_on_where_it_was(self, server: WeightsServer) -> None:
        whole = Reply(BODY, headers={"ETag": '"one"'}, ranges=True)
        server.replies["/model.bin"] = [
            Reply(BODY, headers={"ETag": '"one"'}, cut=1_000_000),
            Reply(b"busy", 503),
            whole,
        ]
        folder = get(one_file(server.url))
        assert (folder / "model.bin").read_bytes() == BODY
        assert server.requests[2][1]["Range"] == "bytes=1000000-"
        assert server.requests[2][1]["If-Range"] == '"one"'
        assert weights_sha256(folder / "model.bin") == sha256(BODY) == file_sha256(folder / "model.bin")

    @pytest.mark.parametrize("ranges", [True, False], ids=["another ETag", "no ranges"])
    def test_a_file_that_was_changed_meanwhile_starts_again(
        self, server: WeightsServer, ranges: bool
    ) -> None:
        newer = BODY[::-1]
        server.replies["/model.bin"] = [
            Reply(BODY, headers={"ETag": '"one"'}, cut=1_000_000),
            Reply(newer, headers={"ETag": '"two"'}, ranges=ranges),
        ]
        assert (get(one_file(server.url)) / "model.bin").read_bytes() == newer

    def test_a_server_that_sends_another_part_is_not_believed(self, server: WeightsServer) -> None:
        # as many bytes as are missing, from the wrong place
        wrong = {"ETag": '"one"', "Content-Range": f"bytes 500000-2499999/{len(BODY)}"}
        server.replies["/model.bin"] = [
            Reply(BODY, headers={"ETag": '"one"'}, cut=1_000_000),
            Reply(BODY[500_000:2_500_000], 206, wrong),
            Reply(BODY),
        ]
        assert (get(one_file(server.url)) / "model.bin").read_bytes() == BODY

    def leave(self, url: str, content: bytes) -> Path:
        """What a killed process leaves: the first bytes and a note."""
        partial = home() / "maker/net/.model.bin.part"
        partial.parent.mkdir(parents=True)
        partial.write_bytes(content)
        note = {"url": f"{url}/model.bin", "etag": '"one"', "sha256": sha256(BODY)}
        partial.with_name(".model.bin.part.json").write_text(json.dumps(note))
        return partial

    def test_bytes_of_an_earlier_process_are_kept(self, server: WeightsServer) -> None:
        partial = self.leave(server.url, BODY[:2_000_000])
        server.replies["/model.bin"] = [Reply(BODY, headers={"ETag": '"one"'}, ranges=True)]
        folder = get(one_file(server.url, sha256=sha256(BODY)))
        assert (folder / "model.bin").read_bytes() == BODY
        assert [headers["Range"] for _, headers in server.requests] == ["bytes=2000000-"]
        assert not partial.with_name(".model.bin.part.json").exists()

    @pytest.mark.parametrize(
        "left", [bytes(2_000_000), BODY, BODY + b"x"], ids=["damaged", "complete", "too long"]
    )
    def test_bytes_that_do_not_lead_to_the_right_hash_are_thrown_away(
        self, server: WeightsServer, left: bytes
    ) -> None:
        self.leave(server.url, left)
        beyond = (
            Reply(b"", 416) if len(left) >= len(BODY) else Reply(BODY, headers={"ETag": '"one"'}, ranges=True)
        )
        server.replies["/model.bin"] = [beyond, Reply(BODY, headers={"ETag": '"one"'}, ranges=True)]
        folder = get(one_file(server.url, sha256=sha256(BODY)))
        assert (folder / "model.bin").read_bytes() == BODY
        assert "Range" in server.requests[0][1]
        assert "Range" not in server.requests[1][1]


class TestHub:
    source = hub_source("maker/net", {"model.bin": None}, licence="MIT", gated=True, instead="compact")
    path = "/maker/net/resolve/main/model.bin"

    @pytest.fixture
    def hub(self, server: WeightsServer, monkeypatch: pytest.MonkeyPatch) -> WeightsServer:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
        return server

    def test_the_token_goes_to_the_hub_only(
        self, hub: WeightsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", " hf_secret\n")
        with serving() as storage:
            storage.replies["/blob"] = [Reply(BODY)]
            hub.replies[self.path] = [Reply(b"", 307, {"Location": "/moved"})]
            hub.replies["/moved"] = [Reply(b"", 302, {"Location": f"{storage.url}/blob"})]
            assert (get(self.source) / "model.bin").read_bytes() == BODY
            sent = [headers["Authorization"] for _, headers in (*hub.requests, *storage.requests)]
            assert sent == ["Bearer hf_secret", "Bearer hf_secret", None]
            hub.replies["/model.bin"] = storage.replies["/model.bin"] = [Reply(b"abcd")]
            get(one_file(storage.url, name="other.bin"))
            assert storage.requests[-1][1]["Authorization"] is None

    @pytest.mark.parametrize("place", ["HF_TOKEN_PATH", "HF_HOME"])
    def test_the_token_may_lie_in_a_file(
        self, hub: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
    ) -> None:
        file = tmp_path / "hf" / "token"
        if place == "HF_TOKEN_PATH":
            file = tmp_path / "secret"
            monkeypatch.setenv(place, str(file))
        file.parent.mkdir(exist_ok=True)
        file.write_text("hf_filed\n")
        hub.replies[self.path] = [Reply(b"abcd")]
        get(self.source)
        assert hub.requests[0][1]["Authorization"] == "Bearer hf_filed"

    def test_a_token_that_is_none_is_refused_and_not_shown(
        self, hub: WeightsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret\r\nHost: evil")
        line = refusal(self.source)
        assert "HF_TOKEN" in line
        assert "secret" not in line
        assert hub.requests == []

    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("known", [True, False])
    def test_gated_weights(
        self, hub: WeightsServer, monkeypatch: pytest.MonkeyPatch, status: int, known: bool
    ) -> None:
        if known:
            monkeypatch.setenv("HF_TOKEN", "hf_secret")
        hub.replies[self.path] = [Reply(b"", status, {"X-Error-Message": "Access is restricted."})]
        line = refusal(self.source, DownloadError)
        expected = [
            f"HTTP {status} Access is restricted.",
            self.source.page,
            "HF_TOKEN",
            "weights=FOLDER",
            "compact",
        ]
        expected.append("no access to them or has expired" if known else "set HF_TOKEN")
        assert all(word in line for word in expected)
        assert "secret" not in line
        assert len(hub.requests) == 1

    def test_what_the_hub_says_of_a_large_file_is_required(self, hub: WeightsServer) -> None:
        headers = {"X-Linked-Etag": f'"{sha256(BODY)}"', "X-Linked-Size": str(len(BODY)), "Location": "/blob"}
        hub.replies[self.path] = [Reply(b"", 302, headers)]
        hub.replies["/blob"] = [Reply(BODY[:-1] + b"x")]
        assert f"expected {sha256(BODY)}" in refusal(self.source)
        hub.replies["/blob"] = [Reply(BODY[:-1])]
        assert f"offers {len(BODY) - 1} bytes, expected {len(BODY)}" in refusal(self.source)
        hub.replies["/blob"] = [Reply(BODY)]
        stated = RemoteFile("model.bin", self.source.files[0].url, sha256="0" * 64)
        newer = Source("maker/net", (stated,), "MIT", PAGE)
        assert f"another version: sha256 {sha256(BODY)}, expected 000" in refusal(newer)
        assert (get(self.source) / "model.bin").read_bytes() == BODY

    def test_the_etag_of_a_small_file_is_no_hash(self, hub: WeightsServer) -> None:
        hub.replies[self.path] = [
            Reply(SMALL, headers={"X-Linked-Etag": '"0123456789"', "ETag": f'"{"0" * 64}"'})
        ]
        assert (get(self.source) / "model.bin").read_bytes() == SMALL


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


class TestArchives:
    members = (("lora/adapter.bin", "adapter/model.bin"), ("lora/config.json", "config.json"))

    def test_named_members_are_taken_out_and_the_archive_goes(self, server: WeightsServer) -> None:
        content = archive(
            lora__adapter=b"no", **{"lora__adapter.bin": BODY, "lora__config.json": SMALL, "x": b"x"}
        )
        server.replies["/model.bin"] = [Reply(content)]
        source = one_file(
            server.url, members=self.members, name="all.zip", sha256=sha256(content), size=len(content)
        )
        folder = get(source)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {"adapter/model.bin", "config.json", ".identisim.json", ".identisim.lock"}
        assert (folder / "adapter/model.bin").read_bytes() == BODY
        assert weights_sha256(folder / "config.json") == sha256(SMALL)
        assert get(source) == folder == locate(source)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (archive(other=b"x"), "There is no item named"),
            (b"PK\3\4 no archive", "not a zip file"),
            (archive(**{"lora__adapter.bin": b"x" * 100, "lora__config.json": b""}), "unpacks to 100 bytes"),
        ],
        ids=["member missing", "no archive", "too much"],
    )
    def test_archives_that_are_not_as_expected_leave_nothing(
        self, server: WeightsServer, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
    ) -> None:
        monkeypatch.setattr(fetching_module, "MAX_UNPACKED", 99)
        server.replies["/model.bin"] = [Reply(content)]
        assert reason in refusal(one_file(server.url, members=self.members, name="all.zip"))
        assert not list(home().rglob("*.part"))

    def test_a_member_with_a_wrong_checksum_is_not_kept(self, server: WeightsServer) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as opened:
            opened.writestr("lora/adapter.bin", b"abcdefgh")
        content = buffer.getvalue().replace(b"abcdefgh", b"abcdefgx", 1)
        server.replies["/model.bin"] = [Reply(content)]
        line = refusal(one_file(server.url, members=self.members[:1], name="all.zip"))
        assert "Bad CRC-32" in line

    def test_a_member_may_not_be_placed_outside(self, server: WeightsServer, tmp_path: Path) -> None:
        server.replies["/model.bin"] = [Reply(archive(x=b"x"))]
        with pytest.raises(InputError, match="expected a path below"):
            get(one_file(server.url, members=(("x", "../../evil"),), name="all.zip"))
        assert not list(tmp_path.rglob("evil"))


class TestDisk:
    def test_a_full_disk_is_one_line_and_keeps_nothing(
        self, server: WeightsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> NoReturn:
            raise OSError(28, "No space left on device")

        server.replies["/model.bin"] = [Reply(BODY)]
        monkeypatch.setattr(os, "fsync", full)
        line = refusal(one_file(server.url, size=len(BODY)))
        assert all(word in line for word in ("the disk is full", "3 MB", str(home()), "IDENTISIM_HOME"))
        assert not list(home().rglob("*.part*"))

    @pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are POSIX")
    def test_a_file_that_the_system_does_not_let_grow(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(BODY)]
        limit = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))"
        done = run_fetch(server.url, before=limit).communicate(timeout=30)[1]
        assert "cannot be written to" in done
        assert "File too large" in done
        assert not list(home().rglob("*model.bin*"))

    def test_a_cache_that_is_a_file(self, server: WeightsServer, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("in the way")
        with pytest.raises(TransferError, match=r"cannot be written to .*home/maker/net: Not a directory"):
            get(one_file(server.url))


def run_fetch(url: str, before: str = "") -> subprocess.Popen[str]:
    """Fetch one file in a process of its own."""
    code = (
        f"{before}\nimport sys\nfrom identisim.downloads import fetch\n"
        "from identisim.sources import RemoteFile, Source\n"
        f"file = RemoteFile('model.bin', {url!r} + '/model.bin', sha256={sha256(BODY)!r})\n"
        f"source = Source('maker/net', (file,), 'MIT', {PAGE!r})\n"
        "try: print(fetch(source, wanted_by='toy'))\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


class TestProcesses:
    def test_two_processes_download_once(self, server: WeightsServer) -> None:
        server.replies["/model.bin"] = [Reply(BODY, chunk=300_000, pause=0.1)]
        both = [run_fetch(server.url) for _ in range(2)]
        results = [process.communicate(timeout=30) for process in both]
        assert results == [(f"{home() / 'maker/net'}\n", "")] * 2
        assert server.asked("/model.bin") == 1
        assert file_sha256(home() / "maker/net/model.bin") == sha256(BODY)

    def test_a_killed_download_is_never_seen_and_goes_on(self, server: WeightsServer) -> None:
        facts = {"headers": {"ETag": '"one"'}, "ranges": True}
        server.replies["/model.bin"] = [Reply(BODY, cut=2_000_000, stall=20, **facts), Reply(BODY, **facts)]
        source = one_file(server.url, sha256=sha256(BODY))
        partial = home() / "maker/net/.model.bin.part"
        process = run_fetch(server.url)
        wait_until(lambda: partial.exists() and partial.stat().st_size > 1_500_000)
        assert locate(source) is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = partial.stat().st_size
        assert locate(source) is None
        assert not (home() / "maker/net/model.bin").exists()
        folder = get(source)
        assert (folder / "model.bin").read_bytes() == BODY
        assert server.requests[1][1]["Range"] == f"bytes={kept}-"
        assert not list(folder.glob("*.part*"))


def test_names_are_light_and_pinned() -> None:
    assert all(hasattr(downloads, name) for name in downloads.__all__)
    code = (
        "import sys, identisim.downloads\n"
        "print([name for name in ('torch', 'numpy', 'urllib.request', 'tqdm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
