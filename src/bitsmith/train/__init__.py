"""Training: one loop, calibration, evaluation, checkpoints."""

from bitsmith.train.checkpoint import (
    load_checkpoint,
    load_into,
    load_state,
    read_json,
    save_checkpoint,
    save_state,
    write_json,
    write_text,
)
from bitsmith.train.fit import (
    History,
    TrainPlan,
    autocast,
    check_same,
    fit,
    make_optimizer,
    make_schedule,
    pick_device,
)
from bitsmith.train.statistics import calibrate, evaluate, reestimate_norms
from bitsmith.train.task import METRICS, Task, accuracy
from bitsmith.train.watch import Event, Watch, silent

__all__ = [
    "METRICS",
    "Event",
    "History",
    "Task",
    "TrainPlan",
    "Watch",
    "accuracy",
    "autocast",
    "calibrate",
    "check_same",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_into",
    "load_state",
    "make_optimizer",
    "make_schedule",
    "pick_device",
    "read_json",
    "reestimate_norms",
    "save_checkpoint",
    "save_state",
    "silent",
    "write_json",
    "write_text",
]
