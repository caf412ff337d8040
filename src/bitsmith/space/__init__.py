"""Sets of blueprints that a search may return."""

from bitsmith.space.pins import Pin, resolve_pins
from bitsmith.space.precision import Precision, precision

__all__ = ["Pin", "Precision", "precision", "resolve_pins"]
