"""The command line. Commands are thin: they read options, call the pipeline and print."""

from bitsmith.cli.app import app, main
from bitsmith.cli.jobs import quantize, run, search  # importing a command registers it; this is their order in --help
from bitsmith.cli.stages import export, report, train, verify

from bitsmith.cli.facts import check, cost  # isort: skip

__all__ = ["app", "check", "cost", "export", "main", "quantize", "report", "run", "search", "train", "verify"]
