"""verification.json of a run's networks, as the record shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitsmith.blueprint import Blueprint
from bitsmith.files import read_json, values_of
from bitsmith.pipeline.artefacts import describe_difference
from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.pipeline.traits import blueprint_arithmetic
from bitsmith.report import Verification

FILE = "verification.json"
_FIRST, _AGAIN = "run bitsmith verify first", "delete it and run bitsmith verify again"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """How a network did.

    Args:
        validation: the task's metric; None of a network whose training says it.
        test: the same, of the files where it has some.
        source: what computed `test`.
    """

    validation: float | None
    test: float
    source: Literal["onnx", "torch"]


def read_tested(folder: Path) -> Tested:
    """What the verification of the network in a folder says of its scores.

    Raises:
        RunError: it isn't verified, or the file is damaged.
    """
    values: dict[str, Any] = read_json(folder / FILE, _FIRST)
    with values_of(folder / FILE, _AGAIN):
        given = values.get("validation")
        if values["source"] not in ("onnx", "torch"):
            raise ValueError(f"nothing that computes it is called {values['source']!r}")
        return Tested(
            validation=None if given is None else float(given), test=float(values["test"]), source=values["source"]
        )


def is_fine(folder: Path) -> bool:
    """Whether every file of the network in a folder computes what was trained.

    Raises:
        RunError: it isn't verified, or the file is damaged.
    """
    values: dict[str, Any] = read_json(folder / FILE, _FIRST)
    with values_of(folder / FILE, _AGAIN):
        return all(check["ok"] for check in values["checks"])


def verifications(run: RunFolder, entry: Entry, blueprint: Blueprint) -> list[Verification]:
    """What was verified of each file of a network.

    Raises:
        RunError: nothing was, or verification.json is damaged.
    """
    file = run.folder(entry) / FILE
    values: dict[str, Any] = read_json(file, _FIRST)
    with values_of(file, _AGAIN):
        return [
            Verification(
                artefact=f"{entry.slug}/{check['artefact']}",
                images=check["images"],
                score=check.get("score", values["test"]),  # C code has its own; it may be of other arithmetic
                equal_outputs=check["equal_images"],
                integer_layers=check["integer_layers"],
                float_layers=check["float_layers"],
                first_difference=check["first_difference"],
                ok=check["ok"],
                level=_level(check, blueprint),
            )
            for check in values["checks"]
        ]


def _level(check: Mapping[str, Any], blueprint: Blueprint) -> str:
    """What "equal" means of a file."""
    if not check["images"]:
        return f"not run: {'; '.join(check['problems'])}"
    if "words" in check:
        return f"{check['words']}; {check['vela']}"
    if check.get("fpu") is False:
        return f"bit-identical with its fixed point; {100 * check['agreement']:.2f} % of classes are the reference's"
    if check.get("exact", True):  # older files know of nothing else
        return "bit-identical here; for x86 CPUs with VNNI" if check.get("vnni") else "bit-identical"
    if "neighbors" in check:
        largest = max(check["largest_difference"].values())
        return (
            f"layer by layer at most one level beside the reference's, in {check['neighbors']:,} of "
            f"{check['compared']:,} numbers; outputs within {100 * largest:.2g} % of their range"
        )
    apart = describe_difference(check["differing_outputs"], check["largest_difference"])
    return f"{blueprint_arithmetic(blueprint)}; layer by layer, {apart}"
