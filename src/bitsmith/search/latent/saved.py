"""Autoencoders on disk: weights as safetensors, and beside them what they are of as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bitsmith.errors import RunError
from bitsmith.files import read_json, write_json
from bitsmith.search.latent.autoencoder import Autoencoder, Widths
from bitsmith.space import Sequences, dump_sequence_space
from bitsmith.train import load_into, load_state, save_state

WEIGHTS, FACTS = "autoencoder.safetensors", "autoencoder.json"
_SCHEMA = 1


def save_autoencoder(model: Autoencoder, space: Sequences, folder: Path) -> None:
    """Write weights and facts into a folder, each file whole or not at all."""
    save_state(model.state_dict(), folder / WEIGHTS)
    facts = {
        "schema": _SCHEMA,
        "space": dump_sequence_space(space.description),
        "input_shape": list(space.input_shape),
        "outputs": space.outputs,
        "graph": space.identity()["graph"],
        "widths": asdict(model.widths),
    }
    write_json(folder / FACTS, facts)


def load_autoencoder(space: Sequences, folder: Path) -> Autoencoder:
    """Read an autoencoder of a space, ready for use.

    Raises:
        RunError: a file is missing or damaged, or is of another space.
    """
    facts = read_json(folder / FACTS, "what the autoencoder is of")
    try:
        schema, graph, widths = facts["schema"], facts["graph"], Widths(**facts["widths"])
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / FACTS} is damaged ({error}); delete the folder and train again") from error
    if schema != _SCHEMA:
        raise RunError(f"{folder / FACTS}: schema {schema!r} can't be read; this version reads {_SCHEMA}")
    if graph != space.identity()["graph"]:
        raise RunError(
            f"the autoencoder in {folder} is of another space, or of images of another shape; train one of this space"
        )
    model = Autoencoder(space.automaton, widths)
    load_into(model, load_state(folder / WEIGHTS), str(folder / WEIGHTS))
    return model.eval()
