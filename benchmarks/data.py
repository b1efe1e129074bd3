"""The data files that several benchmarks read."""

from __future__ import annotations

from pathlib import Path

from lmsteer.data.labelled import LabelledText, read_labelled


def labelled_texts(data: Path, file: str) -> list[LabelledText]:
    """The texts of a data file that lie at one end of its dimension: those with another label than 0.

    Args:
        data: folder of the data files.
        file: name of the file, without ``.jsonl.gz``.
    """
    return [text for text in read_labelled(data / f"{file}.jsonl.gz") if text.label]
