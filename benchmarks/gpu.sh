#!/usr/bin/env bash
# The tests that need a GPU, then the speed of a fit and of decoding for a model of 8 billion random weights.
# No model is fetched. The result is benchmarks/results/gpu.json.
set -euo pipefail
cd "$(dirname "$0")/.."
make test-gpu CONSTRAINTS="${CONSTRAINTS-}"
.venv/bin/python -m benchmarks.gpu measure "$@"
.venv/bin/python -m benchmarks.gpu show
