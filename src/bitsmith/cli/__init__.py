"""The command line. Commands are thin: they read options, call the pipeline and print."""

from bitsmith.cli.app import app, main
from bitsmith.cli.jobs import run, search  # importing a command registers it; this is their order in --help

from bitsmith.cli.quantize import quantize  # isort: skip
from bitsmith.cli.stages import export, report, train, verify

from bitsmith.cli.explain import explain  # isort: skip
from bitsmith.cli.check import check  # isort: skip
from bitsmith.cli.facts import cost  # isort: skip
from bitsmith.cli.targets import targets  # isort: skip
from bitsmith.cli.profile import profile  # isort: skip
from bitsmith.cli.compare import compare  # isort: skip
from bitsmith.cli.widths import widths  # isort: skip

__all__ = [
    "app",
    "check",
    "compare",
    "cost",
    "explain",
    "export",
    "main",
    "profile",
    "quantize",
    "report",
    "run",
    "search",
    "targets",
    "train",
    "verify",
    "widths",
]
