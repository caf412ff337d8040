"""Folders of images, one folder per class: small sets are read into memory, large ones stay in their files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bitsmith.blueprint import InputContract
from bitsmith.data import files
from bitsmith.data.bad import find_bad
from bitsmith.data.files import chunked, decode
from bitsmith.data.image import SUFFIXES, Decoder
from bitsmith.data.raw import Labeled, Listed, Part, Raw, Request, carve_test
from bitsmith.errors import DataError

# Mean and deviation of ImageNet's training pixels as torchvision's reference training takes them.
IMAGENET = InputContract(kind="uint8", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_FEW = 256  # files that are read sooner than worker processes start


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listing:
    """The files of one part of a data set, by class."""

    root: Path
    names: np.ndarray
    labels: np.ndarray


def read_folder(request: Request) -> Raw:
    """Read images, resized to the shape by bilinear interpolation without regard to their aspect ratio.

    Layouts: folder/train/CLASS/image with folder/test/CLASS/image, or folder/val in the place of folder/test; where
    both are there, val is the validation split. Or folder/CLASS/image: then 20 % of the images become the test split,
    always the same ones. Folders within a class folder belong to it. Files with other suffixes and hidden ones are
    passed over. Pixels of more than a gigabyte in
    all are not kept in memory: the files are decoded when they are used, and mean and deviation are those of 2,048
    training images.

    Raises:
        DataError: no path, no shape, no such folder, no classes, a class without images, classes that differ between
            the splits, an image that can't be read (named), C other than 1 or 3.
    """
    if request.path is None:
        raise DataError("folder needs a path, as folder:photos")
    if not request.path.is_dir():
        raise DataError(f"{request.path} is not a folder")
    if request.shape is None:
        raise DataError(
            f"{request.text} needs a shape to resize its images to, for example 3,64,64 (channels, height, width); "
            "on the command line: --input 3x64x64"
        )
    folder, decoder = request.path, Decoder(shape=request.shape)
    name = f"folder:{folder.resolve().name}"
    if not _folders(folder / "train"):
        classes = _classes(folder)
        whole, notes = _read(request, _list(folder, "", classes), decoder)
        train, test = carve_test(whole)
        return Raw(name=name, train=train, test=test, classes=classes, notes=notes)

    classes = _classes(folder / "train")
    found = {
        part: _list(folder, part, _agreeing(folder, part, classes))
        for part in ("train", "test", "val")
        if (folder / part).is_dir()
    }
    large = _large(sum(len(listing.labels) for listing in found.values()), decoder)
    read = {part: _read(request, listing, decoder, large=large) for part, listing in found.items()}
    parts = {part: images for part, (images, _) in read.items()}
    notes = tuple(note for _, notes in read.values() for note in notes)
    validation = parts.pop("val", None) if "test" in parts else None
    if "test" in parts or "val" in parts:
        train, test = parts["train"], parts.get("test", parts.get("val"))
        assert test is not None
    else:
        train, test = carve_test(parts["train"])
    return Raw(name=name, train=train, test=test, classes=classes, validation=validation, notes=notes)


def read_imagenet(request: Request) -> Raw:
    """ImageNet as it is usually laid out: folder/train/CLASS/image and folder/val/CLASS/image; val is the test split.

    Images stay in their files. They are evaluated on the center of the resized image (256 and 224 pixels, or in the
    same proportion) and normalized by torchvision's mean and deviation.

    Raises:
        DataError: no path, another layout, C other than 3; as `read_folder`.
    """
    if request.path is None:
        raise DataError("imagenet needs the path of a folder that holds train/ and val/, as imagenet:/data/imagenet")
    folder = request.path
    missing = [part for part in ("train", "val") if not _folders(folder / part)]
    if missing:
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder} isn't laid out as train/CLASS/image and val/CLASS/image: {' and '.join(missing)} with class "
            f"folders is missing (there: {there or 'nothing'}); sort the validation images into class folders, or use "
            "folder:PATH for images without these two parts"
        )
    decoder = Decoder(shape=request.shape or (3, 224, 224), fit="center")
    if decoder.shape[0] != 3:
        raise DataError(f"imagenet is read in color: give 3 channels, not {decoder.shape[0]}, or use folder:PATH")
    classes = _classes(folder / "train")
    train, notes = _read(request, _list(folder, "train", classes), decoder, large=True)
    test, more = _read(request, _list(folder, "val", _agreeing(folder, "val", classes)), decoder, large=True)
    name = f"imagenet:{folder.resolve().name}"
    return Raw(name=name, train=train, test=test, classes=classes, contract=IMAGENET, notes=(*notes, *more))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> tuple[str, ...]:
    found = tuple(entry.name for entry in _folders(folder))
    if not found:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder of its own")
    for name in found:
        try:
            name.encode("utf-8")  # which the files do that tell the classes
        except UnicodeEncodeError as error:
            raise DataError(
                f"the class folder {os.fsencode(folder / name)!r} has a name that isn't UTF-8; rename it"
            ) from error
    return found


def _agreeing(folder: Path, part: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    found = _classes(folder / part)
    if found != classes:
        odd = sorted(set(classes) ^ set(found))
        shown = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise DataError(f"{folder}: the classes of train and {part} differ: {shown} in one of them alone")
    return found


def _list(folder: Path, part: str, classes: tuple[str, ...]) -> _Listing:
    names, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_images(folder / part / name))
        if not found:
            raise DataError(f"the class folder {folder / part / name} holds no image ({' '.join(sorted(SUFFIXES))})")
        names += [os.fsencode(Path(part, name, file)) for file in found]
        labels += [label] * len(found)
    return _Listing(root=folder, names=np.array(names), labels=np.array(labels, dtype=np.int64))


def _images(folder: Path) -> Iterator[str]:
    """The images of a class folder and of the folders in it, as paths below it; hidden ones are passed over."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        below = Path(place).relative_to(folder)
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and name[0] != "." and Path(place, name).is_file():
                yield str(below / name)


def _large(count: int, decoder: Decoder) -> bool:
    return count * int(np.prod(decoder.shape)) > files.IN_MEMORY


def _read(
    request: Request, listing: _Listing, decoder: Decoder, *, large: bool | None = None
) -> tuple[Part, tuple[str, ...]]:
    """The images of a listing, in memory or (large) in their files, and notes about them."""
    large = _large(len(listing.labels), decoder) if large is None else large
    names, labels = listing.names, torch.from_numpy(listing.labels)
    if large:
        bad = find_bad(listing.root, names, decoder) if request.skip_bad else {}
        kept = np.array([i not in bad for i in range(len(names))])
        part = Listed(root=listing.root, names=names[kept], labels=labels[torch.from_numpy(kept)], decoder=decoder)
        return part, _left_out(bad, len(names))
    images = torch.empty((len(names), *decoder.shape), dtype=torch.uint8)
    bad, animated = {}, []
    workers = 0 if len(names) < _FEW else None
    for chunk, part in zip(chunked(names), decode(listing.root, chunked(names), decoder, workers=workers), strict=True):
        if part.bad and not request.skip_bad:
            raise DataError(next(iter(part.bad.values())))
        images[chunk.place : chunk.place + len(chunk.names)] = part.images
        bad |= {chunk.place + i: reason for i, reason in part.bad.items()}
        animated += [chunk.place + i for i in part.animated]
    kept = torch.tensor([i not in bad for i in range(len(names))])
    notes = _left_out(bad, len(names))
    if animated:
        first = listing.root / os.fsdecode(bytes(names[animated[0]]))
        notes += (f"{len(animated)} image files hold several frames ({first}, ...); the first one is taken",)
    if bad:
        images, labels = images[kept], labels[kept]
    return Labeled(images=images, labels=labels), notes


def _left_out(bad: dict[int, str], count: int) -> tuple[str, ...]:
    if not bad:
        return ()
    reason = bad[min(bad)].split("; remove or repair", 1)[0]
    return (f"{len(bad):,} of {count:,} images are left out, since they can't be read; the first: {reason}",)
