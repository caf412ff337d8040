"""Sets of blueprints that a search may return."""

from bitsmith.space.cut import cut_state
from bitsmith.space.mobile import Mobile
from bitsmith.space.mobile_presets import MOBILE_SPACES
from bitsmith.space.mobile_space import MobileSpace, Stage, Stem
from bitsmith.space.mobile_yaml import dump_mobile_space, parse_mobile_space, read_mobile_space
from bitsmith.space.narrow import Narrowed, largest_width, narrow, narrowed
from bitsmith.space.pins import Pin, blame, resolve_pins
from bitsmith.space.precision import Precision, precision
from bitsmith.space.sequence import Sequences
from bitsmith.space.sequence_automaton import Automaton
from bitsmith.space.sequence_costs import ADDITIVE, SequenceCosts
from bitsmith.space.sequence_edits import Edits
from bitsmith.space.sequence_presets import SEQUENCE_SPACES
from bitsmith.space.sequence_space import SequenceSpace, Token, canonical
from bitsmith.space.sequence_yaml import dump_sequence_space, parse_sequence_space, read_sequence_space
from bitsmith.space.space import Space

__all__ = [
    "ADDITIVE",
    "MOBILE_SPACES",
    "SEQUENCE_SPACES",
    "Automaton",
    "Edits",
    "Mobile",
    "MobileSpace",
    "Narrowed",
    "Pin",
    "Precision",
    "SequenceCosts",
    "SequenceSpace",
    "Sequences",
    "Space",
    "Stage",
    "Stem",
    "Token",
    "blame",
    "canonical",
    "cut_state",
    "dump_mobile_space",
    "dump_sequence_space",
    "largest_width",
    "narrow",
    "narrowed",
    "parse_mobile_space",
    "parse_sequence_space",
    "precision",
    "read_mobile_space",
    "read_sequence_space",
    "resolve_pins",
]
