"""From options about a method to the recipe's method."""

from __future__ import annotations

from typing import Any

from bitsmith.errors import RecipeError
from bitsmith.recipe import METHODS, make_method, named

# What --as-published means beyond the setting of that name.
PUBLISHED: dict[str, dict[str, Any]] = {
    # the paper's training: SGD, lr .1, a tenth after every 10 epochs (25 of them)
    "composite": {"plan": {"epochs": 25, "batch_size": 256}, "architecture_lr": 0.01},
    # as FBNet: SGD by a cosine; choices wait for 10 of 90 epochs
    "supernet": {
        "plan": {"epochs": 90, "batch_size": 256, "schedule": "cosine", "warmup": 0.0},
        "weights_first": 0.1112,  # a pass follows the last step of an epoch, and that of the tenth is not to count
    },
    "binomial": {},
    "block-binomial": {},
    "multinomial": {},  # refused for what nobody knows: it takes a recipe
}


def method_section(name: str, as_published: bool, epochs: int | None, batch: int | None = None) -> dict[str, Any]:
    """The recipe's method from the options about it.

    Raises:
        RecipeError: an unknown method, or an option that it doesn't take.
    """
    settings = named(name)
    if as_published and name not in PUBLISHED:
        raise RecipeError(f"--as-published belongs to --method {', '.join(PUBLISHED)}, not to {name!r}")
    if epochs is not None and not hasattr(make_method(settings), "plan"):
        training = [known for known in METHODS if hasattr(make_method({"name": known}), "plan")]
        raise RecipeError(
            f"--epochs belongs to methods that train while they search, --method {', '.join(training)}; {name!r} "
            "doesn't, so leave it out (--train-epochs are those of the final training)"
        )
    if batch is not None and not _evaluates(settings):
        raise RecipeError(f"--batch belongs to --method latent, which evaluates networks, not to {name!r}")
    if as_published:
        settings |= {"as_published": True, **PUBLISHED[name]}
    if epochs is not None:
        settings["plan"] = settings.get("plan", {}) | {"epochs": epochs}
    if batch is not None:
        settings["batch"] = batch
    return settings


def require_storage(storage: str | None, method: dict[str, Any]) -> None:
    """Refuse --storage for methods that share no work.

    Raises:
        RecipeError: with those that do.
    """
    if storage is not None and not hasattr(make_method(method), "storage"):
        sharing = [known for known in METHODS if hasattr(make_method({"name": known}), "storage")]
        raise RecipeError(f"--storage belongs to --method {', '.join(sharing)}, not to {method.get('name')!r}")


def require_trials(workers: int | None, executor: str | None, method: dict[str, Any]) -> None:
    """Refuse --workers and --executor for searches that have nothing to share out.

    Raises:
        RecipeError: another method than latent, or a storage that shares the work already.
    """
    if workers is None and executor is None:
        return
    if not _evaluates(method):
        raise RecipeError(
            "--workers and --executor share out networks that a search evaluates, as --method latent does; a search by "
            f"{method['name']!r} is one training. For the final trainings give them to bitsmith train"
        )
    if method.get("storage") is not None:
        raise RecipeError(
            "--storage shares the networks among commands that you start yourself; leave out --workers and --executor, "
            "or the storage"
        )


def _evaluates(method: dict[str, Any]) -> bool:
    """Whether a search by it evaluates whole networks, which can be shared out."""
    return hasattr(make_method(method), "batch")
