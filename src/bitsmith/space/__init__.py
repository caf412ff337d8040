"""Sets of blueprints that a search may return."""

from bitsmith.space.cut import cut_state
from bitsmith.space.mobile import Mobile
from bitsmith.space.mobile_presets import MOBILE_SPACES
from bitsmith.space.mobile_space import MobileSpace, Stage, Stem
from bitsmith.space.mobile_yaml import dump_mobile_space, parse_mobile_space, read_mobile_space
from bitsmith.space.narrow import Narrowed, largest_width, narrow, narrowed
from bitsmith.space.pins import Pin, blame, resolve_pins
from bitsmith.space.precision import Precision, precision
from bitsmith.space.space import Space

__all__ = [
    "MOBILE_SPACES",
    "Mobile",
    "MobileSpace",
    "Narrowed",
    "Pin",
    "Precision",
    "Space",
    "Stage",
    "Stem",
    "blame",
    "cut_state",
    "dump_mobile_space",
    "largest_width",
    "narrow",
    "narrowed",
    "parse_mobile_space",
    "precision",
    "read_mobile_space",
    "resolve_pins",
]
