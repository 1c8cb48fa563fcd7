"""The training loop: steps of a learner with checkpoints, measurements, a log, and a run that survives being killed.

What is learnt, and from what, is the learner's business; when to stop, what to keep and how to go on is this file's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from identisim.errors import InputError
from identisim.records import atomic_file


@dataclass(frozen=True)
class Duration:
    """How long a run lasts and how often it pauses. Without `steps` the clock decides: not exactly repeatable.

    minutes: of training, counted over all sittings of a resumed run.
    """

    steps: int | None = None
    minutes: float = 60.0
    checkpoint_seconds: float = 120.0
    measure_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"a run needs at least one step; got steps={self.steps}")
        if self.steps is None and not 0 < self.minutes < math.inf:
            raise InputError(f"minutes must be positive; got {self.minutes}")


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take such a state."""


class Learner(Protocol):
    """What `fit` trains. Everything random in `step` must come from the number of the step and the settings."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the numbers, as JSON values; a checkpoint of other settings is refused."""

    @property
    def state(self) -> Mapping[str, Stateful]:
        """Networks and optimisers, by name."""

    def step(self, number: int, done: float) -> dict[str, float]:
        """Make step `number` (from 0), `done` of the run (0 to 1) being over; its losses, "loss" the total."""

    def measure(self) -> dict[str, float]:
        """Figures on held-out data; none where there is no such data."""

    def refresh(self) -> None:
        """Called between steps now and then: take in data that has appeared since."""

    def export(self, path: Path) -> Path:
        """Write the weights to be used, atomically."""


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite; the last checkpoint is from before."""


@dataclass
class Progress:
    """Steps made and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0

    def done(self, duration: Duration) -> float:
        """Share of the run that is over."""
        if duration.steps is not None:
            return self.step / duration.steps
        return self.seconds / (60 * duration.minutes)


def fit(learner: Learner, duration: Duration, out: Path) -> Path:
    """Train to the end of the duration; returns the path of the weights, `out/weights.safetensors`.

    out also receives `checkpoint.pt`, `losses.jsonl` (a row per step) and `measures.jsonl`. A killed run goes on from
    its checkpoint when called again and, where steps were given, makes the very losses of an uninterrupted one on the
    same machine and number of threads. Raises InputError for a checkpoint of other settings, `NotFiniteError` when the
    loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    weights, checkpoint = out / "weights.safetensors", out / "checkpoint.pt"
    progress = _resume(learner, checkpoint) if checkpoint.exists() else Progress()
    for name in ("losses.jsonl", "measures.jsonl"):
        _forget_after(out / name, progress.step)
    with (out / "losses.jsonl").open("a") as log, _bar(duration, progress) as bar:
        saved = measured = progress.seconds
        while (done := progress.done(duration)) < 1:
            start = time.monotonic()
            row = learner.step(progress.step, done)
            if not math.isfinite(row["loss"]):
                raise NotFiniteError(
                    f"the loss is {row['loss']} at step {progress.step}: {row}; {checkpoint} is kept"
                )
            progress.step += 1
            progress.seconds += time.monotonic() - start
            log.write(
                json.dumps({"step": progress.step, **row, "seconds": round(progress.seconds, 1)}) + "\n"
            )
            log.flush()
            bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
            bar.update(1 if duration.steps is not None else progress.seconds / 60 - bar.n)
            if progress.seconds - measured > duration.measure_seconds:
                measured = progress.seconds
                _measure(learner, out, progress)
            if progress.seconds - saved > duration.checkpoint_seconds:
                saved = progress.seconds
                _save(learner, checkpoint, progress)
                learner.export(weights)
                learner.refresh()
    _save(learner, checkpoint, progress)
    _measure(learner, out, progress)
    return learner.export(weights)


def average_into(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move a running average of a network's state towards its current one: a ← decay · a + (1 − decay) · c."""
    with torch.no_grad():
        for mean, now in zip(average.state_dict().values(), current.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


def descend(
    loss: Tensor,
    net: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    learning_rate: float,
    decay: float,
) -> float:
    """One step of the optimiser, gradients clipped to length 5, and of the running average; the loss.

    A loss that is not finite changes nothing.
    """
    value = loss.item()
    if math.isfinite(value):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        average_into(average, net, decay)
    return value


def cosine_schedule(done: float, warm_up: float) -> float:
    """Factor of the learning rate: linear from near 0 to 1 over `warm_up` of the run, then half a cosine down to 0."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _bar(duration: Duration, progress: Progress) -> tqdm:
    if duration.steps is not None:
        return tqdm(initial=progress.step, total=duration.steps, unit="step", desc="training", disable=None)
    shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total:.1f} min{postfix}"
    minutes = progress.seconds / 60
    return tqdm(initial=minutes, total=duration.minutes, bar_format=shape, desc="training", disable=None)


def _measure(learner: Learner, out: Path, progress: Progress) -> None:
    if figures := learner.measure():
        with (out / "measures.jsonl").open("a") as file:
            file.write(json.dumps({"step": progress.step, **figures}) + "\n")


def _save(learner: Learner, path: Path, progress: Progress) -> None:
    content = {
        "settings": json.dumps(learner.settings, sort_keys=True),
        "step": progress.step,
        "seconds": progress.seconds,
        **{name: part.state_dict() for name, part in learner.state.items()},
    }
    with atomic_file(path) as file:
        torch.save(content, file)


def _resume(learner: Learner, path: Path) -> Progress:
    content = torch.load(path, weights_only=True, map_location="cpu")
    then, now = json.loads(content["settings"]), json.loads(json.dumps(learner.settings))
    changed = {key: (then.get(key), now.get(key)) for key in {*then, *now} if then.get(key) != now.get(key)}
    if changed:
        raise InputError(f"{path} was made with other settings (then, now): {changed}; use another folder")
    for name, part in learner.state.items():
        part.load_state_dict(content[name])
    return Progress(content["step"], content["seconds"])


def _forget_after(path: Path, step: int) -> None:
    """Drop rows of steps that the checkpoint does not know, and a row that was cut while it was written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # only the last row of a killed run can be cut; its step is made again
        if row["step"] <= step:
            kept.append(line)
    with atomic_file(path) as file:
        file.write("".join(line + "\n" for line in kept).encode())
