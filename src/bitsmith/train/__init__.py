"""Training: one loop, calibration, evaluation, checkpoints."""

from bitsmith.files import read_json, write_json, write_text
from bitsmith.train.averaged import average, take_average
from bitsmith.train.checkpoint import digest, load_checkpoint, load_into, load_state, save_checkpoint, save_state
from bitsmith.train.compiling import compiled, resolve
from bitsmith.train.distill import distill
from bitsmith.train.fit import fit
from bitsmith.train.learner import History, Learner, Piece
from bitsmith.train.loop import Loop
from bitsmith.train.memory import WORKER_MEMORY, fitting_part, foretell, in_words, worker_memory
from bitsmith.train.metrics import METRICS, Metric, accuracy, auc, balanced_accuracy, f1
from bitsmith.train.mode import Mode, autocast, on_threads, pick_device
from bitsmith.train.paired import Difference, paired
from bitsmith.train.parallel import (
    Processes,
    agree,
    asked_for,
    broadcast,
    first_to_fail,
    is_lost,
    join,
    processes,
    refuse_processes,
)
from bitsmith.train.plan import TrainPlan, make_optimizer, make_schedule
from bitsmith.train.staged import Stages, check_noise
from bitsmith.train.statistics import calibrate, evaluate, infer, reestimate_norms
from bitsmith.train.task import Task
from bitsmith.train.watch import Event, Watch, silent

__all__ = [
    "METRICS",
    "WORKER_MEMORY",
    "Difference",
    "Event",
    "History",
    "Learner",
    "Loop",
    "Metric",
    "Mode",
    "Piece",
    "Processes",
    "Stages",
    "Task",
    "TrainPlan",
    "Watch",
    "accuracy",
    "agree",
    "asked_for",
    "auc",
    "autocast",
    "average",
    "balanced_accuracy",
    "broadcast",
    "calibrate",
    "check_noise",
    "compiled",
    "digest",
    "distill",
    "evaluate",
    "f1",
    "first_to_fail",
    "fit",
    "fitting_part",
    "foretell",
    "in_words",
    "infer",
    "is_lost",
    "join",
    "load_checkpoint",
    "load_into",
    "load_state",
    "make_optimizer",
    "make_schedule",
    "on_threads",
    "paired",
    "pick_device",
    "processes",
    "read_json",
    "reestimate_norms",
    "refuse_processes",
    "resolve",
    "save_checkpoint",
    "save_state",
    "silent",
    "take_average",
    "worker_memory",
    "write_json",
    "write_text",
]
