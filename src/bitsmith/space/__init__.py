"""Sets of blueprints that a search may return."""

from bitsmith.space.precision import Precision, precision

__all__ = ["Precision", "precision"]
