"""The parts of a data set, and what is in them."""

PARTS = ("train", "search", "validation", "test")


def bytes_of(split):
    """The bytes of each image."""
    return [image.numpy().tobytes() for image in split.images]
