"""What a report says beside its numbers: what is missing, what was not trained, what can't be believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bitsmith.blueprint import Blueprint
from bitsmith.files import read_json, values_of
from bitsmith.pipeline.folder import Entry
from bitsmith.pipeline.job import Job
from bitsmith.pipeline.post import NOT_TRAINED
from bitsmith.report import Row
from bitsmith.train import in_words

Entries = list[tuple[Entry, Blueprint]]


def notes(job: Job, entries: Entries) -> list[str]:
    """All notes of a verified run."""
    return [
        *job.notes,
        *_left_out(job, entries),
        *_gains(job, entries),
        *_strayed(entries),
        *_noise(entries),
        *_memory(job, entries),
    ]


def caution(rows: list[Row]) -> list[str]:
    """What the verdict opens with where networks were not trained at their bits."""
    untrained = [row for row in rows if not row.trained]
    if not untrained:
        return []
    which = (
        "All low-precision networks are"
        if len(untrained) == len([r for r in rows if r.kind != "float"])
        else (f"{', '.join(dict.fromkeys(row.name for row in untrained))} are")
    )
    return [f"{which} {NOT_TRAINED}."]


def _left_out(job: Job, entries: Entries) -> list[str]:
    """Baselines that the recipe asks for and the run doesn't have: there is no network of that kind in the budget."""
    present = {(entry.name, entry.budget) for entry, _ in entries}
    notes = []
    for budgets in job.recipe.budget_sets():
        for name in job.recipe.baselines:
            entry = Entry(name=name, kind="baseline", budgets=tuple(map(str, budgets)))
            if (name, entry.budget) not in present:
                file = job.run.folder(entry) / "left_out.json"
                notes.append(f"{entry.title} is not compared: {_why(file)}")
    return notes


def _why(file: Path) -> str:
    if not file.exists():
        return "it has not been searched yet"
    values = read_json(file, "search again")
    with values_of(file, "delete it and search again"):
        return str(values["reason"])


def _gains(job: Job, entries: Entries) -> list[str]:
    """What training brought to each network that was quantized without it before; or that nobody has measured it."""
    metric = f"validation_{job.task.metric_name}"
    notes, waiting = [], []
    for entry, _ in entries:
        folder = job.run.folder(entry)
        before, after = job.run.post_training(folder), job.run.history(folder)
        if before and after:
            with values_of(folder, "delete how it was trained and run the stage again"):
                rounded, trained = (100 * float(history.curves[metric][-1]) for history in (before, after))
            notes.append(
                f"{entry.title}: validation {job.task.metric_name} {rounded:.2f} % {NOT_TRAINED}, {trained:.2f} % "
                "after training"
            )
        elif before:
            waiting.append(entry.title)
    if waiting:
        which = "all" if len(waiting) == len(entries) else "; ".join(waiting)
        notes.append(
            f"{NOT_TRAINED}: {which}. What training would gain here is unknown until it is measured: "
            f"bitsmith train {job.run.path} goes on from here"
        )
    return notes


def _memory(job: Job, entries: Entries) -> list[str]:
    """What memory was foretold and taken, of the stage that took most; and every stage whose batches were cut."""
    stages: list[tuple[str, Mapping[str, int]]] = [
        (f"search {entry.title}", entry.memory) for entry, _ in entries if entry.memory
    ]
    trained = [("train float", job.float_folder), *((f"train {e.title}", job.run.folder(e)) for e, _ in entries)]
    for title, folder in trained:
        history = job.run.history(folder)
        if history is not None and history.memory:
            stages.append((title, history.memory))
    found = [
        f"{title}: batches of {memory['batch']} passed in parts of {memory['part']}, with BatchNorm's statistics of "
        "each part, as memory was too small for more"
        for title, memory in stages
        if memory["part"] < memory["batch"]
    ]
    known = [(title, memory) for title, memory in stages if "predicted" in memory and "measured" in memory]
    if known:
        title, memory = max(known, key=lambda stage: stage[1]["measured"])
        found.append(
            f"memory: {title} took most, {in_words(memory['measured'])} at its peak, "
            f"{in_words(memory['predicted'])} foretold"
        )
    return found


def _strayed(entries: Entries) -> list[str]:
    """Networks that are not near what their search learned."""
    return [
        f"{entry.title}: what the search learned could not be brought inside the budgets step by step; the network is "
        "one inside, filled up by what was learned"
        for entry, _ in entries
        if entry.details.get("fell_back")
    ]


def _noise(entries: Entries) -> list[str]:
    """How far measured sensitivities can be believed; once for a front that shares them."""
    found = []
    for entry, _ in entries:
        noise = entry.details.get("noise")
        if noise and noise["within"] is not None:
            found.append(
                f"{entry.name}: {noise['within']} of {noise['steps']} steps between bit-widths change the loss by less "
                f"than two standard errors over {noise['images']:,} images, so their order may be chance"
            )
    return list(dict.fromkeys(found))
