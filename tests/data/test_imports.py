"""Data are read, and generation is configured, without loading a large library."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import lmsteer.data.instructions, lmsteer.data.labelled, lmsteer.data.prompts
import lmsteer.data.starter, lmsteer.data.table_rows, lmsteer.data.wishes
import lmsteer.generation.config, lmsteer.util.disk_cache, lmsteer.util.progress
large = ("torch", "transformers", "pyarrow", "datasets", "rich", "numpy", "pandas")
print(*(name for name in large if name in sys.modules))
"""


def test_reading_data_imports_no_large_library():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
