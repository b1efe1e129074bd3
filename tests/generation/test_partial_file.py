"""A bulk run is refused a folder, a file of an interrupted run, and nothing to resume."""

from __future__ import annotations

import pytest

from lmsteer.errors import DataError, OutputError
from lmsteer.generation.partial_file import check_bulk_target, partial_of


def test_targets_that_cannot_be_written_to_are_refused(tmp_path):
    out = tmp_path / "o.jsonl"
    check_bulk_target(out, resume=False)
    with pytest.raises(DataError, match="nothing to resume"):
        check_bulk_target(out, resume=True)
    partial_of(out).touch()
    check_bulk_target(out, resume=True)
    with pytest.raises(DataError, match="continue it with --resume"):
        check_bulk_target(out, resume=False)
    with pytest.raises(OutputError, match="is a folder"):
        check_bulk_target(tmp_path, resume=False)
