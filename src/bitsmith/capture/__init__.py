"""torch module -> NetworkGraph: read the exported operators, name them, prove that the rebuilt network is the same."""

from bitsmith.capture.captured import Captured, capture

__all__ = ["Captured", "capture"]
