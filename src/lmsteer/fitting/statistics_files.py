"""The files of saved statistics, and the folders that they may be written to. This module does not import torch."""

from __future__ import annotations

from pathlib import Path

from lmsteer.errors import StatisticsError
from lmsteer.util.artifacts import check_overwrite

SUMS_FILE, SAMPLE_FILE, RECORD_FILE = "statistics.safetensors", "sample-{:04d}.safetensors", "statistics.json"


def check_statistics_target(folder: Path) -> None:
    """Refuse a folder that holds something else than statistics, which saving some there would remove.

    Raises:
        StatisticsError: it does, or it is a file.
        OutputError: it cannot be written.
    """
    own = {SUMS_FILE, RECORD_FILE, *(file.name for file in folder.glob(SAMPLE_FILE.replace("{:04d}", "*")))}
    check_overwrite(folder, "set of statistics", RECORD_FILE, own, StatisticsError)
