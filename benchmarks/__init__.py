"""Measurements whose results are committed: `python -m benchmarks.NAME [--quick]` writes results/NAME.json here."""
