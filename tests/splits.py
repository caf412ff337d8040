"""The parts of a data set, and what is in them."""

PARTS = ("train", "search", "validation", "test")


def bytes_of(split):
    """The bytes of each image."""
    return [image.numpy().tobytes() for image in split.images]


def assert_searched(x, data):
    """A batch is of the search split and holds nothing that weights learn from."""
    searched, trained = (
        {image.numpy().tobytes() for batch, _ in split.batches(batch_size=64) for image in batch}
        for split in (data.search, data.train)
    )
    assert {image.numpy().tobytes() for image in x} <= searched - trained
