#!/usr/bin/env bash
# What a graphics card makes of lmsteer, in one command and ten minutes (no model is fetched): the tests that need a GPU,
# then a fit and decoding of a model of 8 billion weights. The result is benchmarks/results/gpu.json.
set -euo pipefail
cd "$(dirname "$0")/.."
make test-gpu CONSTRAINTS="${CONSTRAINTS-}"
.venv/bin/python -m benchmarks.gpu measure "$@"
.venv/bin/python -m benchmarks.gpu show
