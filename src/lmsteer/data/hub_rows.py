"""Rows of datasets of the Hub."""

from __future__ import annotations

from collections.abc import Iterator

from lmsteer.data.cells import TableRow, name_classes
from lmsteer.errors import DataError


def hub_rows(name: str, split: str, *, stream: bool = False) -> Iterator[tuple[str, TableRow]]:
    """The rows of a dataset of the Hub, each with its place.

    Args:
        name: the id of the dataset.
        split: its split.
        stream: whether to read it while it is fetched, in place of downloading it first.

    Raises:
        DataError: the dataset cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{name!r} is not a file here; to read it as a Hub dataset, install `pip install 'lmsteer[hub]'`."
        ) from error
    try:
        rows = datasets.load_dataset(name, split=split, streaming=stream)
    except Exception as error:  # the Hub's client raises a dozen unrelated kinds
        raise DataError(f"{name!r} is not a file here, and the Hub dataset cannot be loaded: {error}") from error
    features = (rows.features or {}).items()  # a stream may not know them
    classes = {column: feature.names for column, feature in features if isinstance(feature, datasets.ClassLabel)}
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield f"{name} ({split}), row {number}", name_classes(row, classes)
    except DataError:
        raise
    except Exception as error:  # a stream that breaks off, in any way that its client knows
        raise DataError(f"{name} ({split}) cannot be read after row {number}: {error}") from error
