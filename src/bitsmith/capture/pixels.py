"""Arithmetic on the raw input: (x - mean) / std, or one channel at a time, becomes the input's gain and offset.

A value that is still raw pixels is a row of channels, each x[channel] * gain + offset. It stays so through numbers,
buffers, slices and concatenations; what reads it as a tensor makes a draft "pixels". When all drafts are known,
`resolve` gives the input node the gain and offset that they agree on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitsmith.capture.call import Call
from bitsmith.capture.draft import Draft, Pixel, Refusal
from bitsmith.errors import CaptureError

# aten operator -> whether its first operand may be the number too.
ARITHMETIC: Mapping[str, bool] = {"add": True, "sub": True, "mul": True, "div": False, "rsub": False, "neg": False}


def scaled(name: str, call: Call) -> tuple[Pixel, ...]:
    """The pixels after one step of arithmetic with a number or a buffer; () where the call is none.

    Raises:
        Refusal: the buffer isn't one number per channel, or a result is not finite.
    """
    flipped = ARITHMETIC[name] and not call.pixels("self")
    x, other = ("other", "self") if flipped else ("self", "other")
    pixels = call.pixels(x)
    known = torch.tensor(1.0) if name == "neg" else call.constant(other)
    if not pixels or known is None or call["rounding_mode"] is not None:
        return ()
    alpha = float(call["alpha"] or 1)
    made = []
    for pixel, number in zip(pixels, _per_channel(known, len(pixels), call.rank(x)), strict=True):
        gain, offset = pixel.gain, pixel.offset
        match name:
            case "mul":
                gain, offset = gain * number, offset * number
            case "div":
                gain, offset = (gain / number, offset / number) if number else (math.nan, math.nan)
            case "neg":
                gain, offset = -gain, -offset
            case "add":
                scale, added = (alpha, number) if flipped else (1.0, alpha * number)
                gain, offset = scale * gain, scale * offset + added
            case "sub" | "rsub":
                scale, added = (-alpha, number) if flipped or name == "rsub" else (1.0, -alpha * number)
                gain, offset = scale * gain, scale * offset + added
        made.append(Pixel(channel=pixel.channel, gain=gain, offset=offset))
    if not all(math.isfinite(p.gain) and math.isfinite(p.offset) for p in made):
        raise Refusal("it scales the input to something that is not finite")
    return tuple(made)


def _per_channel(tensor: Tensor, channels: int, rank: int) -> list[float]:
    """One number per channel of a tensor that broadcasts over (N, channels, H, W)."""
    if tensor.numel() == 1:
        return [float(tensor)] * channels
    shape = (1,) * (rank - tensor.ndim) + tuple(tensor.shape)
    if rank != 4 or shape != (1, channels, 1, 1):
        raise Refusal(
            f"it scales the input by a tensor of shape {tuple(tensor.shape)}; "
            f"one number, or one per channel as ({channels}, 1, 1), becomes a part of the input"
        )
    return tensor.flatten().double().tolist()


@dataclass(frozen=True, kw_only=True)
class _Read:
    pixel: Pixel
    source: str


def resolve(drafts: Sequence[Draft], output: str) -> tuple[list[Draft], str]:
    """Give the input its gain and offset, and make every draft "pixels" the input, a part of it or parts joined.

    Raises:
        CaptureError: a channel is read with two different gains or offsets.
    """
    reads: dict[int, _Read] = {}
    for draft in drafts:
        for pixel in draft.fields["pixels"] if draft.op == "pixels" else ():
            first = reads.setdefault(pixel.channel, _Read(pixel=pixel, source=draft.source))
            if first.pixel != pixel:
                raise CaptureError(
                    f"channel {pixel.channel} of the input is read scaled in two ways "
                    f"({_told(first)} and {_told(_Read(pixel=pixel, source=draft.source))}); "
                    "a network has one gain and offset per input channel: scale once, before anything reads it"
                )
    made: list[Draft] = []
    renamed: dict[str, str] = {}
    for draft in drafts:
        if draft.op == "input":
            row = [reads[c].pixel if c in reads else Pixel(channel=c) for c in range(draft.shape[0])]
            gain, offset = tuple(p.gain for p in row), tuple(p.offset for p in row)
            plain = set(gain) == {1.0} and set(offset) == {0.0}
            made.append(draft if plain else replace(draft, fields={"gain": gain, "offset": offset}))
        elif draft.op == "pixels":
            parts = _parts(draft, made[0])
            made += parts
            renamed[draft.name] = parts[-1].name if parts else made[0].name
        else:
            made.append(replace(draft, inputs=tuple(renamed.get(name, name) for name in draft.inputs)))
    return made, renamed.get(output, output)


def _parts(draft: Draft, source: Draft) -> list[Draft]:
    """Nodes that pick a row of channels out of the input, the last of which has them all."""
    row = [pixel.channel for pixel in draft.fields["pixels"]]
    # Neighbors stay together: channel - position is the same for all of a run.
    runs = [[c for _, c in run] for _, run in itertools.groupby(enumerate(row), lambda pair: pair[1] - pair[0])]
    plain = replace(draft, path="", leaf=False, inputs=(source.name,), fields={})
    splits: list[Draft] = []
    inputs: list[str] = []
    for run in runs:
        if len(run) == source.shape[0]:
            inputs.append(source.name)
            continue
        name = f"{draft.name}/{len(splits)}"
        shape = (len(run), *source.shape[1:])
        splits.append(replace(plain, name=name, op="split", shape=shape, fields={"start": run[0]}))
        inputs.append(name)
    if len(runs) == 1:
        return splits
    return [*splits, replace(plain, name=f"{draft.name}/all", op="concat", inputs=tuple(inputs))]


def _told(read: _Read) -> str:
    return f"x * {read.pixel.gain:g} + {read.pixel.offset:g}" + (f" at {read.source}" if read.source else "")
