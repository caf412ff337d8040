"""Runs ZigZag on layers, one answer per line; a program of its own.

ZigZag sets up logging for the whole process, draws figures and writes files; here that harms nobody. In: one JSON value
{accelerator, mapping, layers}. Out: per layer {energy, cycles} in picojoules and cycles, or {error}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

OBJECTIVE = "energy"  # of the loop order, of those that ZigZag tries


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed meanwhile is no answer
    asked = json.load(sys.stdin)

    from zigzag import api  # pyright: ignore[reportMissingImports]

    # No figures: 3.9 can't print the loops of a layer that the array takes whole. Stages that are None are left out.
    api.VisualizationStage = None

    for layer in asked["layers"]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                energy, cycles, _ = api.get_hardware_performance_zigzag(
                    [layer],
                    asked["accelerator"],
                    asked["mapping"],
                    opt=OBJECTIVE,
                    dump_folder=folder,
                    pickle_filename=f"{folder}/evaluations.pickle",
                    loma_show_progress_bar=False,
                )
                answer = {"energy": float(energy), "cycles": float(cycles)}
            except Exception as error:  # ZigZag raises many kinds for a layer that it can't map
                lines = str(error).splitlines() or [""]
                answer = {"error": f"{type(error).__name__}: {lines[0]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
