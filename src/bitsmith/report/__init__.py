"""What a run found, as one record (report.json) and one self-contained page (report.html)."""

from bitsmith.report.front import front_cost, on_front
from bitsmith.report.page import write_report
from bitsmith.report.parts import Curve, LayerRow, Requested, Row, Sensitivities, Sensitivity, Verification
from bitsmith.report.record import SCHEMA, Record, read_record
from bitsmith.report.verdict import verdict

__all__ = [
    "SCHEMA",
    "Curve",
    "LayerRow",
    "Record",
    "Requested",
    "Row",
    "Sensitivities",
    "Sensitivity",
    "Verification",
    "front_cost",
    "on_front",
    "read_record",
    "verdict",
    "write_report",
]
