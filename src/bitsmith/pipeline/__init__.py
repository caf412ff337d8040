"""The whole job: recipe in; trained, exported, verified network and report out."""

from bitsmith.pipeline.folder import Entry, RunFolder
from bitsmith.pipeline.job import (
    Job,
    Say,
    check_budgets,
    describe,
    export,
    is_integer,
    make_space,
    meets,
    open_task,
    prepare,
    quiet,
    search,
    summarize_bits,
    train,
    train_float,
    verify,
)
from bitsmith.pipeline.summary import environment, report, summarize

__all__ = [
    "Entry",
    "Job",
    "RunFolder",
    "Say",
    "check_budgets",
    "describe",
    "environment",
    "export",
    "is_integer",
    "make_space",
    "meets",
    "open_task",
    "prepare",
    "quiet",
    "report",
    "search",
    "summarize",
    "summarize_bits",
    "train",
    "train_float",
    "verify",
]
