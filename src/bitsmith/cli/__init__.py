"""The command line."""

from bitsmith.cli.commands import app, main

__all__ = ["app", "main"]
