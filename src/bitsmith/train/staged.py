"""Training with noise, layer by layer: first all layers float, in the end all quantized (UNIQ, NICE).

The steps of a run are cut into equal stages, one more than there are quantized layers. In stage k, layers before the
k-th are hard (quantized as they will be written), layers behind it compute in float, and layer k is being quantized:
a few of its weights, drawn anew at every step, get uniform noise of up to half the distance between levels, the others
are hard:

    W~ = clip(W + u), u ~ U(-s/2, s/2), where noisy;    Q(W) elsewhere

In the last stage every layer is hard. Baskin et al., UNIQ (arXiv 1804.10969) and NICE (arXiv 1810.00162), with the
numbers of the code of Zur et al. (arXiv 1904.09872): 5 % of the weights, activations without noise. Where we differ:
layers that are done go on learning; a layer's steps are started anew where its stage begins, from its weights and the
first batch, since both have moved; what lies between layers (streams) has its 8 bits from the beginning.
"""

from __future__ import annotations

from typing import cast, final

from torch import nn

from bitsmith.errors import RecipeError
from bitsmith.quantize import Calibrated, FilterWise, LearnedStep, Network, Priced, Quantizer, find_quantizers


@final
class Stages:
    """The stages of one training.

    Args:
        share: of the weights that get noise.
        steps: of the whole run.

    Raises:
        RecipeError: not a network of quantized layers with learned steps, or fewer steps than stages.

    Example:
        Two layers in 30 steps: steps 0..9 quantize the first, 10..19 the second, 20..29 train both hard.
    """

    def __init__(self, network: nn.Module, share: float, steps: int) -> None:
        self._steps, self._share = steps, share
        found = list(network.priced()) if isinstance(network, Network) else []
        self.layers: list[tuple[str, Priced]] = [(n, layer) for n, layer in found if layer.quantize_weight is not None]
        if not self.layers:
            raise RecipeError("noise is for the training of quantized networks, and this one has no quantized weights")
        for name, layer in self.layers:
            quantizer = layer.quantize_weight
            parts = quantizer.parts.values() if isinstance(quantizer, FilterWise) else [quantizer]
            if not all(isinstance(part, LearnedStep) for part in parts):
                raise RecipeError(
                    f"noise needs weights with learned steps, and layer {name!r} has another quantizer: take lsq, "
                    "lsq-pow2 or nice"
                )
        _check_steps(len(self.layers), steps)

    def at(self, step: int) -> int:
        """The layer that is being quantized at a step, by number; as many as there are layers means none any more."""
        return step * (len(self.layers) + 1) // self._steps

    def hold(self, step: int) -> None:
        """Let every layer compute as at a step."""
        now = self.at(step)
        for k, (_, layer) in enumerate(self.layers):
            layer.noise = self._share if k == now else 0.0
            layer.is_float = k > now

    def begin(self, step: int) -> None:
        """`hold`, and start a layer's steps where its stage begins; the next batch that passes decides them."""
        self.hold(step)
        now = self.at(step)
        if now < len(self.layers) and (step == 0 or self.at(step - 1) < now):
            layer = self.layers[now][1]
            cast(Quantizer, layer.quantize_weight).calibrate(layer.weight)
            if isinstance(layer.quantize_input, Calibrated):
                layer.quantize_input.begin()

    def passed(self) -> None:
        """A batch has passed."""
        for _, layer in self.layers:
            if isinstance(layer.quantize_input, Calibrated) and layer.quantize_input.calibrating:
                layer.quantize_input.end()

    def finish(self) -> None:
        """Every layer hard."""
        self.hold(self._steps - 1)


def check_noise(quantizer: str, *, layers: int, steps: int) -> None:
    """Refuse what `Stages` would refuse, before there is a network.

    Args:
        quantizer: a name of `bitsmith.quantize.QUANTIZERS`, or "package.module:Name".
        layers: that will be quantized, at least.
        steps: of the training.

    Raises:
        RecipeError: a quantizer of weights without learned steps, or fewer steps than stages.
    """
    if not isinstance(find_quantizers(quantizer).weight(2, (2, 1, 1, 1), True), LearnedStep):
        raise RecipeError(
            f"noise needs weights with learned steps, and those of the quantizer {quantizer!r} are not: take lsq, "
            "lsq-pow2 or nice, or train without noise"
        )
    _check_steps(layers, steps)


def _check_steps(layers: int, steps: int) -> None:
    if steps <= layers:
        raise RecipeError(
            f"noise takes {layers + 1} stages, one for each layer and one at the end, and the training has {steps} "
            "steps; give it more epochs"
        )
