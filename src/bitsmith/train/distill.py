"""Distillation: a network learns from the outputs of another one beside the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bitsmith.errors import TrainingError


def distill(
    loss: Tensor, logits: Tensor, taught: Tensor, *, share: float, temperature: float, part: float = 1.0
) -> Tensor:
    """(1 - d) loss + d T^2 KL(softmax(taught / T) || softmax(logits / T)), the mean over the batch.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531, section 2. T^2 keeps
    the gradient's size independent of T. The task's own loss, whatever it is, takes the place of their cross-entropy.

    Args:
        loss: of the task, scalar.
        logits, taught: of the student and of its teacher, (N, classes).
        share: d, 0..1.
        temperature: T.
        part: how much of a batch these samples are, where `loss` is that part's: the sum over parts is the batch's.

    Raises:
        TrainingError: the teacher tells other classes apart.

    Example:
        Logits [0, 0] taught by [log 3, 0] at T = 1: KL = 3/4 log(3/4 / 1/2) + 1/4 log(1/4 / 1/2) = 0.1308.
    """
    if taught.shape != logits.shape:
        raise TrainingError(
            f"the teacher gives outputs of shape {tuple(taught.shape)}, the network of {tuple(logits.shape)}; "
            "distillation needs one and the same list of classes"
        )
    student, teacher = F.log_softmax(logits / temperature, 1), F.log_softmax(taught / temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - share) * loss + share * temperature**2 * part * divergence
