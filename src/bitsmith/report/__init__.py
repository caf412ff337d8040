"""What a run found, as one record (report.json) and one self-contained page (report.html)."""

from bitsmith.report.advice import advise
from bitsmith.report.explained import Effect, Explained, LayerStep, read_explained, write_explained
from bitsmith.report.front import front_cost, limited_costs, on_front
from bitsmith.report.latency import Latency, median_error
from bitsmith.report.page import write_report
from bitsmith.report.parts import Curve, LayerRow, Requested, Row, Sensitivities, Sensitivity, Verification
from bitsmith.report.record import SCHEMA, Record, read_record
from bitsmith.report.speed import LayerSpeed, Speed, Time
from bitsmith.report.verdict import verdict

__all__ = [
    "SCHEMA",
    "Curve",
    "Effect",
    "Explained",
    "Latency",
    "LayerRow",
    "LayerSpeed",
    "LayerStep",
    "Record",
    "Requested",
    "Row",
    "Sensitivities",
    "Sensitivity",
    "Speed",
    "Time",
    "Verification",
    "advise",
    "front_cost",
    "limited_costs",
    "median_error",
    "on_front",
    "read_explained",
    "read_record",
    "verdict",
    "write_explained",
    "write_report",
]
