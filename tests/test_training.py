"""The training loop, the shards it reads and the recipe of the compact network."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from identisim.cli import main
from identisim.errors import InputError
from identisim.models.compact import CompactNet
from identisim.models.foreground import ForegroundNet
from identisim.models.weights import save_weights
from identisim.records import read_json, write_json
from identisim.training.compact import CompactLearner, CompactTraining, temperature
from identisim.training.foreground import ForegroundLearner, ForegroundTraining, foreground_overlap
from identisim.training.loop import Duration, NotFiniteError, Stateful, average_into, cosine_schedule, fit
from identisim.training.recipes import compact
from identisim.training.shards import ShardFolder, open_shard
from toy_shards import toy_shard

SMALL: dict[str, Any] = {"widths": (8, 12, 16), "depths": (1, 1, 1)}
TOY = CompactTraining(size=32, final_size=48, families=3, query_patches=4, key_patches=8, **SMALL)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "shard-00000.npy", toy_shard())
    return folder


def rows(out: Path, name: str = "losses.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in rows(out)]


# ---- shards


def test_sampled_batches_hold_all_members_with_the_same_views(shards: Path) -> None:
    shard = open_shard(shards / "shard-00000.npy")
    batch = ShardFolder(shards).sample(np.random.default_rng(0), families=4, views=2)
    assert batch.pixels.shape == (4 * 3 * 2, 32, 32, 4)
    assert len(set(batch.family)) == 4
    assert len(set(batch.identity)) == 12
    for start in range(0, 24, 6):
        family = batch.family[start]
        views = [
            next(
                v
                for v in range(4)
                if np.array_equal(shard[family, member, v], batch.pixels[start + 2 * member + k])
            )
            for member in range(3)
            for k in range(2)
        ]
        assert views[:2] == views[2:4] == views[4:]
        assert views[0] != views[1]


def test_a_new_shard_is_taken_in_and_the_held_out_one_never(shards: Path) -> None:
    folder = ShardFolder(shards)
    np.save(shards / "held-00000.npy", toy_shard(families=7))
    np.save(shards / "shard-00001.npy", toy_shard(families=2, seed=1))
    assert folder.families == 5
    folder.refresh()
    assert folder.families == 7
    families = {
        f for seed in range(20) for f in folder.sample(np.random.default_rng(seed), 3, 2).family.tolist()
    }
    assert families == set(range(7))


def test_shard_errors_say_what_came_and_what_was_expected(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(InputError, match=r"no shard-\*\.npy"):
        ShardFolder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"9 families was asked for, but .* holds 5"):
        ShardFolder(shards).sample(np.random.default_rng(0), 9, 2)
    with pytest.raises(InputError, match="5 views"):
        ShardFolder(shards).sample(np.random.default_rng(0), 2, 5)
    np.save(shards / "shard-00001.npy", np.zeros((2, 3, 32, 32, 4), np.uint8))
    with pytest.raises(InputError, match=r"uint8 \(2, 3, 32, 32, 4\); expected uint8 \(families"):
        ShardFolder(shards)
    content = (shards / "shard-00000.npy").read_bytes()
    (shards / "shard-00001.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a readable shard"):
        ShardFolder(shards)


def test_a_part_of_a_batch_is_of_one_kind(shards: Path) -> None:
    kinds = ["cup", "cat", "cat", "cup", "cat"]
    write_json(shards / "shard-00000.json", {"kinds": kinds})
    folder = ShardFolder(shards)
    for seed in range(8):
        batch = folder.sample(np.random.default_rng(seed), families=3, views=1, alike=0.7)
        drawn = [kinds[family] for family in dict.fromkeys(batch.family)]
        assert drawn[0] == drawn[1]
        assert len(set(batch.family)) == 3
    write_json(shards / "shard-00000.json", {"kinds": kinds[:2]})
    with pytest.raises(InputError, match=r"names 2 kinds, but shard-00000\.npy holds 5 families"):
        ShardFolder(shards)


def test_near_identities_can_be_left_out(shards: Path) -> None:
    batch = ShardFolder(shards).sample(np.random.default_rng(0), families=4, views=2).first_members()
    assert len(batch.pixels) == len(batch.identity) == 8
    assert len(set(batch.identity)) == len(set(batch.family)) == 4


# ---- the loop


class Falling:
    """A learner whose loss is a number drawn for the step, plus the parameter it has moved so far."""

    settings: Mapping[str, Any] = {"rate": 0.5}

    def __init__(self, last: int | None = None, nan_at: int | None = None, seconds: float = 0.0) -> None:
        self.net = torch.nn.Linear(1, 1)
        self.state: Mapping[str, Stateful] = {"net": self.net}
        torch.nn.init.zeros_(self.net.weight)
        torch.nn.init.zeros_(self.net.bias)
        self.last, self.nan_at, self.seconds = last, nan_at, seconds
        self.refreshed = 0

    def step(self, number: int, done: float) -> dict[str, float]:
        if number == self.last:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        with torch.no_grad():
            self.net.weight += random.Random(number).random()
        return {"loss": float("nan") if number == self.nan_at else self.net.weight.item() + done}

    def measure(self) -> dict[str, float]:
        return {"weight": self.net.weight.item()}

    def refresh(self) -> None:
        self.refreshed += 1

    def export(self, path: Path) -> Path:
        return save_weights(self.net, path)


OFTEN: dict[str, Any] = {"checkpoint_seconds": 0.0, "measure_seconds": 0.0}


def test_a_run_cut_short_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = fit(Falling(), Duration(steps=7, **OFTEN), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(Falling(last=4), Duration(steps=7, **OFTEN), tmp_path / "cut")
    # rows written after the checkpoint, and one that was cut while it was written
    with (tmp_path / "cut" / "losses.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 99.0}\n{"step": 6, "lo')
    resumed = fit(Falling(), Duration(steps=7, **OFTEN), tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "cut")] == list(range(1, 8))
    assert resumed.read_bytes() == whole.read_bytes()
    assert rows(tmp_path / "cut", "measures.jsonl")[-1] == rows(tmp_path / "whole", "measures.jsonl")[-1]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    fit(Falling(), Duration(steps=2), tmp_path)
    other = Falling()
    other.settings = {"rate": 0.25}
    with pytest.raises(InputError, match=r"other settings \(then, now\): \{'rate': \(0.5, 0.25\)\}"):
        fit(other, Duration(steps=4), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match="nan at step 3"):
        fit(Falling(nan_at=3), Duration(steps=7, **OFTEN), tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    assert len(rows(tmp_path)) == 3


def test_the_clock_ends_a_run(tmp_path: Path) -> None:
    learner = Falling(seconds=0.05)
    fit(learner, Duration(minutes=0.005, **OFTEN), tmp_path)
    assert rows(tmp_path)[-1]["seconds"] >= 0.3
    assert len(rows(tmp_path)) <= 6
    assert learner.refreshed > 0


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"minutes": 0.0}, {"minutes": float("inf")}])
def test_a_duration_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Duration(**wrong)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    factors = [cosine_schedule(done, warm_up=0.1) for done in np.linspace(0, 1, 101)]
    assert np.argmax(factors) == 10
    assert max(factors) == pytest.approx(1)
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_the_average_follows_by_the_decay() -> None:
    average, current = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    current.running_mean = torch.tensor([1.0, 3.0])
    current.num_batches_tracked = torch.tensor(7)
    average_into(average, current, decay=0.75)
    assert average.running_mean is not None
    torch.testing.assert_close(average.running_mean, torch.tensor([0.25, 0.75]))
    assert average.num_batches_tracked == 7


# ---- the compact network


def test_the_same_seed_gives_the_same_losses_and_weights(shards: Path, tmp_path: Path) -> None:
    runs = [fit(CompactLearner(TOY, shards), Duration(steps=4), tmp_path / name) for name in "ab"]
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert runs[0].read_bytes() == runs[1].read_bytes()
    fit(CompactLearner(replace(TOY, seed=1), shards), Duration(steps=4), tmp_path / "c")
    assert losses(tmp_path / "c") != losses(tmp_path / "a")


def test_training_finds_discs_and_tells_colours_apart(shards: Path, tmp_path: Path) -> None:
    np.save(shards / "held-00000.npy", toy_shard(seed=9))
    config = replace(TOY, families=4, warm_up=0.1, first_temperature=0.2, temperature=0.2, ema_decay=0.9)
    learner = CompactLearner(config, shards, shards / "held-00000.npy")
    before = learner.measure()
    fit(learner, Duration(steps=30), tmp_path)
    found = rows(tmp_path)
    for name in ("cls", "fused", "foreground"):
        values = [row[name] for row in found]
        assert np.mean(values[-6:]) < 0.9 * np.mean(values[:6]), name
    after = rows(tmp_path, "measures.jsonl")[-1]
    assert after["held_iou"] > before["held_iou"] + 0.05
    assert 0 <= after["held_siblings"] <= 1 and 0 <= after["held_top1"] <= 1


def test_a_second_stage_starts_from_the_weights_of_the_first(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = CompactNet(**SMALL)
    initial = save_weights(net, tmp_path / "first.safetensors")
    learner = CompactLearner(replace(TOY, initial=initial), shards)
    for name, tensor in learner.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
    assert json.dumps(dict(learner.settings))  # the path has become the content's hash
    assert learner.settings["initial"] != str(initial)
    assert compact(initial).settings.learning_rate < compact().settings.learning_rate


def test_a_given_foreground_stays_as_it_is(shards: Path, tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = ForegroundNet()
    path = save_weights(net, tmp_path / "foreground.safetensors")
    learner = CompactLearner(replace(TOY, foreground=path), shards)
    entry = learner.net.trunk.stages[0][0].weight.clone()  # type: ignore[index]
    fit(learner, Duration(steps=2), tmp_path)
    for name, tensor in learner.net.foreground.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
    assert not torch.equal(learner.net.trunk.stages[0][0].weight, entry)  # type: ignore[index]


def test_the_foreground_alone_learns_to_find_discs(shards: Path, tmp_path: Path) -> None:
    np.save(shards / "held-00000.npy", toy_shard(seed=9))
    config = ForegroundTraining(families=2, ema_decay=0.9)
    learner = ForegroundLearner(config, shards, shards / "held-00000.npy")
    fit(learner, Duration(steps=20), tmp_path)
    found = rows(tmp_path)
    assert np.mean([row["loss"] for row in found[-5:]]) < 0.9 * np.mean([row["loss"] for row in found[:5]])


def test_bfloat16_gives_nearly_the_same_first_losses(shards: Path) -> None:
    exact, rounded = (
        CompactLearner(replace(TOY, precision=precision), shards).step(0, 0.0)
        for precision in ("float32", "bfloat16")
    )
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)
    assert rounded != exact


def test_the_temperature_falls_while_training_is_guided() -> None:
    config = CompactTraining(first_temperature=0.2, temperature=0.05, guided=0.5)
    assert temperature(config, 0.0) == pytest.approx(0.2)
    assert temperature(config, 0.25) == pytest.approx(0.1)
    assert temperature(config, 0.5) == temperature(config, 1.0) == pytest.approx(0.05)


def test_foreground_overlap_counts_pixels() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    masks[1, :, :4] = True
    logits = torch.full((3, 8, 8), -1.0)
    logits[0, :, :4] = 1.0
    logits[1, :, 2:6] = 1.0
    torch.testing.assert_close(foreground_overlap(logits, masks), torch.tensor([1.0, 1 / 3, 1.0]))


# ---- the command


COMMAND = [
    "train",
    "compact",
    "--render",
    "1",
    "--steps",
    "2",
    "--size",
    "32",
    "--families",
    "4",
    "--device",
    "cpu",
]


@pytest.fixture
def tiny_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few small pictures, rendered in this process: renderers are tried in the slow suite."""
    from identisim.training import recipes
    from identisim.world import shards as world

    class Here:
        def __init__(
            self, out: Path, *, seed: int, numbers: Any, processes: int, prefix: str = "shard"
        ) -> None:
            self.work = (out, seed, numbers, prefix)

        def __enter__(self) -> Here:
            out, seed, numbers, prefix = self.work
            world.write_shards(out, seed=seed, numbers=numbers, families=4, prefix=prefix)
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def running(self) -> bool:
            return False

    draw = world.shard
    monkeypatch.setattr(world, "shard", lambda seed, numbers: draw(seed, numbers, size=32, oversample=1))
    monkeypatch.setattr(recipes, "Renderers", Here)


@pytest.mark.usefixtures("tiny_world")
def test_the_command_renders_trains_and_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--out", str(tmp_path / "a")]) == 0
    assert str(tmp_path / "a" / "weights.safetensors") in capsys.readouterr().out
    assert len(losses(tmp_path / "a")) == 2
    note = read_json(tmp_path / "a" / "shards" / "shard-00000.json")
    assert len(note["kinds"]) == 4 and {"carton", "animal"} <= set(note["kinds"])
    shared = [*COMMAND, "--shards", str(tmp_path / "a" / "shards"), "--out", str(tmp_path / "c")]
    assert main(shared) == 0
    assert losses(tmp_path / "c") == losses(tmp_path / "a")
    first = str(tmp_path / "a" / "weights.safetensors")
    assert main([*shared[:-1], str(tmp_path / "d"), "--initial", first]) == 0
    assert losses(tmp_path / "d") != losses(tmp_path / "a")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--minutes", "1"], "give one"),
        (["--shards", "nowhere"], "no shard-"),
        (["--initial", "nothing.safetensors"], "nothing.safetensors"),
        (["--device", "abacus"], "abacus"),
        (["--size", "40"], "multiples of 16"),
    ],
)
@pytest.mark.usefixtures("tiny_world")
def test_misuse_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert main([*COMMAND, "--out", str(tmp_path / "out"), *extra]) == 2
    assert message in capsys.readouterr().err


SCRIPT = """
import sys
from pathlib import Path
from test_training import TOY
from identisim.training.compact import CompactLearner
from identisim.training.loop import Duration, fit
fit(CompactLearner(TOY, Path(sys.argv[1])), Duration(steps=30, checkpoint_seconds=0.0), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_at_random_moments_the_losses_are_those_of_a_clean_run(shards: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}

    def run(out: Path, patience: float | None) -> bool:
        command = [sys.executable, "-c", SCRIPT, str(shards), str(out)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        wait_for_steps = (out / "losses.jsonl").exists()
        try:
            if patience is not None and not wait_for_steps:
                while not (out / "losses.jsonl").exists() and process.poll() is None:
                    time.sleep(0.05)
            errors = process.communicate(timeout=patience)[1]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return False
        assert process.returncode == 0, errors.decode()
        return True

    assert run(tmp_path / "clean", None)
    rng = random.Random(0)
    kills = 0
    while kills < 8 and not run(tmp_path / "killed", 4.0 + rng.uniform(0, 3.0)):
        kills += 1
    assert kills >= 2
    assert run(tmp_path / "killed", None)
    assert losses(tmp_path / "killed") == losses(tmp_path / "clean")
    weights = [tmp_path / name / "weights.safetensors" for name in ("killed", "clean")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_renderers_write_shards_beside_and_end_with_the_block(tmp_path: Path) -> None:
    from identisim.world.shards import Renderers

    with Renderers(tmp_path, seed=3, numbers=range(2), processes=2) as renderers:
        deadline = time.monotonic() + 300
        while renderers.running() and not list(tmp_path.glob("shard-*.npy")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    shard = open_shard(next(iter(tmp_path.glob("shard-*.npy"))))
    assert shard.shape == (64, 3, 4, 128, 128, 4)
    assert not renderers._processes[0].is_alive()
    kinds = read_json(next(iter(tmp_path.glob("shard-*.json"))))["kinds"]
    assert len(kinds) == 64
