"""Files that others made beside the exported networks of a run, on the run's test images."""

from __future__ import annotations

from pathlib import Path

from bitsmith.deploy import lower
from bitsmith.deploy.against import Against, compare_with
from bitsmith.deploy.onnx_writer import OUTPUT
from bitsmith.deploy.runtime import infer, session
from bitsmith.deploy.theirs import Feed, Theirs, read_theirs
from bitsmith.pipeline import exported
from bitsmith.pipeline.folder import Entry
from bitsmith.pipeline.job import Job
from bitsmith.quantize import freeze


def read_other(job: Job, other: Path, feed: Feed) -> Theirs:
    """A file of others as a classifier of the run's images.

    Raises:
        VerifyError: as of `read_theirs`.
    """
    _, blueprint = job.run.entries()[0]  # all networks of a run read the same images
    return read_theirs(other, blueprint.graph.input_shape, blueprint.input, feed)


def compare_run(job: Job, theirs: Theirs) -> list[tuple[Entry, Against]]:
    """Compare every exported network of a run with a file of others, which runs on the test images once.

    Raises:
        VerifyError: the file can't be run, or doesn't classify the run's images.
    """
    images, labels = job.task.data.test.raw(job.recipe.verify_images)
    given = theirs.run(images)[0]
    found = []
    for entry, _ in job.run.entries():
        network = exported.load(job.run.folder(entry))
        assert network.blueprint is not None
        program = lower(freeze(network, network.blueprint), network.blueprint)
        outputs = infer(session(job.run.folder(entry) / "model.onnx"), images, [OUTPUT])[0]
        found.append((entry, compare_with(theirs, given, program, outputs, images, labels)))
    return found
