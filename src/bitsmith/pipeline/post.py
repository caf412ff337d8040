"""Post-training quantization: every network of a run from the float weights alone, in minutes, nothing trained.

A first look at what a budget costs, not a result: the same run goes on with `train`, which replaces what is made here.
The baselines take the same path, so that it shows whether the allocation of bits helped.
"""

from __future__ import annotations

import time

from torch import Tensor

from bitsmith.cost import price
from bitsmith.errors import RunError
from bitsmith.models import FRESH
from bitsmith.pipeline import verbs
from bitsmith.pipeline.job import Job, Say, float_network, float_state, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.seeding import derive
from bitsmith.train import Event, Task, Watch, evaluate, save_state, silent, write_json

NOT_TRAINED = "post-training (not trained)"


def quantize(job: Job, watch: Watch = silent, say: Say = quiet) -> None:
    """Quantize every searched network of a run that is neither trained nor quantized yet.

    Raises:
        RunError: there are no trained float weights, or they don't know this data: rounding them would say nothing.
    """
    floats = require_float(job)
    with locked(job.run.path):
        entries = job.run.entries()
        for done, (entry, blueprint) in enumerate(entries, start=1):
            folder = job.run.folder(entry)
            if job.run.history(folder) is None and job.run.post_training(folder) is None:
                started = time.monotonic()
                network = verbs.quantize(job.task, blueprint, floats, seed=derive(job.recipe.seed, "final"))
                validation, loss = evaluate(network, job.task.data.validation, job.task)
                seconds = time.monotonic() - started
                save_state(network.state_dict(), folder / "network.safetensors")
                curves = {f"validation_{job.task.metric_name}": [validation], "validation_loss": [loss]}
                values = {"what": NOT_TRAINED, "seconds": seconds, "curves": curves}
                job.run.add_trial(
                    {
                        "name": entry.name,
                        "what": NOT_TRAINED,
                        "budget": entry.budget,
                        "bits": {name: [b.weight, b.activation] for name, b in blueprint.bits.items()},
                        "costs": price(blueprint.graph, blueprint.bits, job.space.costs),
                        "score": validation,
                        "metric": job.task.metric_name,
                        "epochs": entry.search_epochs,
                        "seconds": seconds + entry.search_seconds,
                        "seed": job.recipe.seed,
                    }
                )
                write_json(folder / "post_training.json", values)
                say(f"{entry.title}, {NOT_TRAINED}: validation {job.task.metric_name} {100 * validation:.2f} %")
            watch(Event(stage="quantize", step=done, steps=len(entries), images=0))


def require_float(job: Job) -> dict[str, Tensor]:
    """The trained float weights, where rounding them can say something.

    Raises:
        RunError: there are none, the classifier is a fresh one, or they do no better on validation than guessing.
    """
    floats = float_state(job)
    if floats is None:
        raise RunError(
            "post-training quantization needs a trained float network: give its weights (--weights FILE, model.weights "
            "in a recipe); from random weights the result would mean nothing"
        )
    fresh = next((note for note in job.notes if note.endswith(FRESH)), None)
    if fresh and job.recipe.float_plan is None:
        raise RunError(f"{fresh}, so nobody has trained it for this data; train the float network on it first")
    data = job.task.data
    share, _ = evaluate(float_network(job, floats), data.validation, Task(data=data, metric="balanced_accuracy"))
    guessing = 1 / len(data.classes)
    if share <= guessing:
        raise RunError(
            f"the float network finds {100 * share:.2f} % of each class of the validation images on average, guessing "
            f"finds {100 * guessing:.2f} %: these weights were not trained for this data, or for another normalization "
            "or order of classes"
        )
    return floats
