"""The whole job: recipe in; trained, exported, verified network and report out."""

from bitsmith.pipeline.ahead import estimate_ahead, price_ahead
from bitsmith.pipeline.artefacts import describe, export, verify
from bitsmith.pipeline.copies import copied
from bitsmith.pipeline.explain import explain_run
from bitsmith.pipeline.folder import Entry, RunFolder, begun
from bitsmith.pipeline.job import Job, Say, check_budgets, make_space, open_task, prepare, quiet
from bitsmith.pipeline.lock import locked
from bitsmith.pipeline.post import NOT_TRAINED, quantize, require_float
from bitsmith.pipeline.stages import change_lr, search, train, train_float
from bitsmith.pipeline.summary import environment, report, summarize
from bitsmith.pipeline.traits import is_integer, meets, summarize_bits

__all__ = [
    "NOT_TRAINED",
    "Entry",
    "Job",
    "RunFolder",
    "Say",
    "begun",
    "change_lr",
    "check_budgets",
    "copied",
    "describe",
    "environment",
    "estimate_ahead",
    "explain_run",
    "export",
    "is_integer",
    "locked",
    "make_space",
    "meets",
    "open_task",
    "prepare",
    "price_ahead",
    "quantize",
    "quiet",
    "report",
    "require_float",
    "search",
    "summarize",
    "summarize_bits",
    "train",
    "train_float",
    "verify",
]
