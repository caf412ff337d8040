"""Loop: the epochs and steps that training and searching share, and how they go on where they were stopped.

A batch that memory is too small for passes in parts of a half, a quarter, ... of it (`bitsmith.train.memory`); what
that changes, `bitsmith.quantize.parts` says. How large they are is decided before the first step and kept.

A checkpoint is written every `checkpoint_seconds`, at the end of every epoch and on Ctrl-C, always between two steps.
It holds all that the next step depends on: the learner's state, the place in the epoch, torch's random state, and the
mode (what is compiled, precision, threads). Batches depend on the seed, the epoch and their number alone. So a run that
goes on, whatever ended it, comes to the same bits as one that was never stopped, on the same machine.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from bitsmith.data import Split
from bitsmith.errors import BitsmithError, RunError, TrainingError
from bitsmith.quantize import Part, computing
from bitsmith.train.checkpoint import check_same, load_checkpoint, save_checkpoint
from bitsmith.train.compiling import wanted
from bitsmith.train.interrupt import between_steps
from bitsmith.train.learner import History, Learner, Piece
from bitsmith.train.memory import fitting_part, foretell, free_in_words, in_words, peak, restart_peak
from bitsmith.train.mode import choose_mode, pick_device, saved_mode
from bitsmith.train.parallel import ALONE, agree, least, processes, sum_gradients
from bitsmith.train.plan import TrainPlan
from bitsmith.train.task import Task
from bitsmith.train.watch import Event, Watch, silent


@final
class Loop:
    """Runs a learner over all epochs of a plan, from its checkpoint on where there is one.

    Args:
        stage: what to call it in events and errors.
        task: its augmentation changes the batches.
        split: what is learned from.
        plan: epochs, batch size, device and mode.
        epoch_seed: epoch -> seed of its batches.
        settings: what a checkpoint must agree in to be gone on from, beside the data.
        checkpoint: file to continue from and to write; None keeps nothing.
        checkpoint_seconds: time after which the next one is written; 0 = after every step.

    Raises:
        RunError: the checkpoint is damaged, was made with other settings, or needs a compiler that is missing.
    """

    def __init__(
        self,
        *,
        stage: str,
        task: Task,
        split: Split,
        plan: TrainPlan,
        epoch_seed: Callable[[int], int],
        settings: Mapping[str, Any],
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 60.0,
        watch: Watch = silent,
    ) -> None:
        self._stage, self._task, self.split, self._plan = stage, task, split, plan
        self._epoch_seed, self._settings = epoch_seed, dict(settings)
        if checkpoint is not None:
            self._settings["data"] = split.fingerprint()
        self._checkpoint, self._checkpoint_seconds, self._watch = checkpoint, checkpoint_seconds, watch
        self.device = pick_device(plan)
        self.steps_per_epoch = split.steps(batch_size=plan.batch_size)
        self.steps = plan.epochs * self.steps_per_epoch
        self._processes = processes()
        self._usual = plan.batch_size
        self._tried: int | None = None  # images of any batch, while memory is foretold
        self._part: int | None = None  # images that pass at once, where batches are cut
        self._least = 2  # images at once: BatchNorm has no statistics of one
        self.saved = load_checkpoint(checkpoint) if checkpoint else None
        if self.saved is None:
            self.mode = choose_mode(plan, steps=self.steps, device=self.device)
        else:
            assert checkpoint is not None
            with _of_this_version(checkpoint):
                check_same(self.saved, self._settings, checkpoint)
                self.mode = saved_mode(self.saved, checkpoint, self.device)
        if self.saved is None and self.mode.compile != wanted(plan.compile, steps=self.steps):
            self._say("torch.compile finds no compiler on this machine; nothing is compiled")
        if self.saved is not None and self.mode.threads != torch.get_num_threads():
            self._say(f"goes on with {self.mode.threads} threads, as it began, instead of {torch.get_num_threads()}")

    def run(self, learner: Learner) -> History:
        """All epochs that are left; run it inside `on_threads(loop.mode.threads)`.

        Raises:
            TrainingError: the loss is not finite, or memory is too small for the least part of a batch.
        """
        history, at = History(), _Place()
        if self.saved is not None:
            with _of_this_version(self._checkpoint):
                learner.restore(self.saved["learner"], str(self._checkpoint))
                history = History(
                    seconds=self.saved["seconds"], curves=self.saved["curves"], memory=self.saved["memory"]
                )
                at = _Place(**self.saved["place"])
                _set_random_state(self.saved["random"], self.device)
                part, batch = history.memory["part"], history.memory["batch"]
                self._part = part if part < batch else None
        else:
            history.memory = self._plan_memory(learner)
        self._agree(learner, at)
        measured = restart_peak(self.device)
        began = time.monotonic() - history.seconds

        def keep() -> float:
            history.seconds = time.monotonic() - began
            if measured:
                history.memory["measured"] = max(history.memory.get("measured", 0), peak(self.device))
            if self._checkpoint is not None and self._processes.rank == 0:
                values = {"settings": self._settings, "mode": asdict(self.mode), "place": asdict(at)}
                values |= {"seconds": history.seconds, "curves": history.curves, "memory": history.memory}
                values |= {"random": _random_state(self.device), "learner": learner.state()}
                save_checkpoint(values, self._checkpoint)
            return time.monotonic()

        kept = time.monotonic()
        with between_steps(self._checkpoint is not None) as interruption:
            while at.epoch < self._plan.epochs:
                for x, y in self._batches(at):
                    self._step(learner, x, y, at)
                    if interruption.pressed or time.monotonic() - kept >= self._checkpoint_seconds:
                        kept = keep()
                        interruption.answer()
                    self._watch(self._event(at, images=len(x)))
                figures = learner.end_epoch(self._done(at), at.total / max(1, at.images))
                history.add(figures)
                event = self._event(at, epoch_end=True, values=figures)
                at.epoch, at.batch, at.total, at.images = at.epoch + 1, 0, 0.0, 0
                self._agree(learner, at)
                kept = keep()
                interruption.answer()
                self._watch(event)
        return history

    @property
    def scored(self) -> int:
        """How many images to score at once: without gradients one takes less than a quarter of what it does in a
        step."""
        return min(500, 4 * (self._part or self._plan.batch_size))

    def gradients(self, x: Tensor, y: Tensor, loss: Callable[[Piece], Tensor], parameters: Iterable[Tensor]) -> float:
        """Add the gradients of the loss of a batch, piece by piece and over all processes, and return that loss.

        Args:
            parameters: that get gradients, all of them from here.
        """
        x, y = (t[: self._tried].to(self.device) for t in (x, y))
        total, start = 0.0, 0
        for size in self._sizes(len(x)):
            own = self._processes.own(size)
            whole = size == len(x) and own is None
            part = None if whole else Part(share=size / len(x), before=start / len(x), own=own)
            mine = slice(start, start + size) if own is None else slice(start + own.start, start + own.stop)
            piece = Piece(x=x[mine], y=y[start : start + size], batch=y, part=part, usual=whole and size == self._usual)
            with computing(part):
                value = loss(piece)
                # What all processes compute counts once.
                (value if own is not None or self._processes.count == 1 else value / self._processes.count).backward()
            total, start = total + value.item(), start + size
        if self._processes.count > 1:
            sum_gradients(parameters)
        return total

    def _sizes(self, images: int) -> list[int]:
        """Of the parts of a batch, as equal as can be, of two images at least."""
        if self._part is None:
            return [images]
        count = max(1, min(-(-images // self._part), images // self._least))
        return [images // count + (i < images % count) for i in range(count)]

    def _agree(self, learner: Learner, at: _Place) -> None:
        if self._processes.count > 1:
            agree({"settings": self._settings, "place": asdict(at), **learner.state()}, self._stage)

    def _plan_memory(self, learner: Learner) -> dict[str, int]:
        """Foretell the peak, choose the parts that batches pass in, and tell both."""
        state, random = copy.deepcopy(learner.state()), _random_state(self.device)
        x, y = next(self._batches(_Place()))
        batch = max(len(x), self._plan.batch_size)  # a loader of the user's has batches of its own size
        memory = {"batch": batch, "part": batch}
        together, self._processes = self._processes, ALONE  # each process tries for itself
        most = -(-len(x) // together.count)
        self._usual = 0  # nothing is compiled for a try

        def attempt(images: int) -> None:
            self._tried = images
            learner.begin(0)
            self.gradients(x, y, partial(learner.loss, step=0), learner.parameters())
            learner.update(0)
            learner.restore(copy.deepcopy(state), "memory")  # each time: schedules know no step behind their last

        found = foretell(attempt, least=min(self._least, most), most=most, device=self.device)
        self._tried, self._usual, self._processes = None, self._plan.batch_size, together
        _set_random_state(random, self.device)
        if least(int(found is not None), self.device) == 0 or found is None:
            self._say("this machine doesn't let a process measure its memory, so none is foretold")
            return memory
        free = free_in_words(self.device)
        part = least(fitting_part(found, batch, self._least, self.device, self._stage, together), self.device)
        size = found.of(-(-part // together.count))
        if part < batch:
            whole = found.of(-(-batch // together.count))
            self._say(
                f"a batch of {batch} would take about {in_words(whole)} of memory, and {free}: "
                f"it passes in parts of {part} ({in_words(size)}). The gradients are those of the "
                "batch, except that BatchNorm normalizes each part by its own statistics"
            )
        else:
            self._say(f"about {in_words(size)} of memory at the peak; {free}")
        self._part = part if part < batch else None
        return memory | {"part": part, "predicted": size}

    def _batches(self, at: _Place) -> Iterator[tuple[Tensor, Tensor]]:
        return self.split.batches(
            batch_size=self._plan.batch_size,
            seed=self._epoch_seed(at.epoch),
            augment=self._task.augment,
            start=at.batch,
        )

    def _step(self, learner: Learner, x: Tensor, y: Tensor, at: _Place) -> None:
        step = self._done(at)
        learner.begin(step)
        value = self.gradients(x, y, partial(learner.loss, step=step), learner.parameters())
        self.refuse_nan(value, step, learner.lr)
        learner.update(step)
        at.batch, at.total, at.images = at.batch + 1, at.total + value * len(x), at.images + len(x)

    def refuse_nan(self, value: float, step: int, lr: float, what: str = "the loss") -> None:
        """End a run whose loss is not finite.

        Raises:
            TrainingError: it isn't; with where the last good state is.
        """
        if math.isfinite(value):
            return
        kept = "nothing was saved yet"
        if self._checkpoint and self._checkpoint.exists():
            kept = f"the last good state is in {self._checkpoint}"
        raise TrainingError(
            f"{self._stage}: {what} became {value} in epoch {step // self.steps_per_epoch + 1}, step {step + 1}, at "
            f"learning rate {lr:.3g}; {kept}. Lower the learning rate, lengthen the warm-up, start from trained "
            "weights, or look for NaN in the data."
        )

    def _done(self, at: _Place) -> int:
        return at.epoch * self.steps_per_epoch + at.batch

    def _event(self, at: _Place, **values: Any) -> Event:
        return Event(**{"stage": self._stage, "step": self._done(at), "steps": self.steps, "images": 0} | values)

    def _say(self, note: str) -> None:
        self._watch(Event(stage=self._stage, step=0, steps=self.steps, images=0, note=note))


@contextmanager
def _of_this_version(checkpoint: Path | None) -> Iterator[None]:
    """Inside, whatever a checkpoint of another shape makes go wrong is a RunError that names it."""
    try:
        yield
    except BitsmithError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"the checkpoint {checkpoint} is damaged or of another version of bitsmith ({type(error).__name__}: "
            f"{error}); delete it to start this stage again"
        ) from error


@dataclass(kw_only=True)
class _Place:
    """Where a loop is: epoch, batches done in it, and their sums."""

    epoch: int = 0
    batch: int = 0
    total: float = 0.0
    images: int = 0


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
