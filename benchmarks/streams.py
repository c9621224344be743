"""What does experience do for a stream of questions? Four arms over the same generated questions, one endpoint.

    python -m benchmarks.smollm2 DIR
    python -m vllm.entrypoints.openai.api_server --model DIR --served-model-name smollm2 --max-model-len 8192 \
        --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'
    python -m benchmarks.streams --base-url http://localhost:8000/v1 --model smollm2 --out runs/streams [--questions 12]

    none           every question is answered with an empty memory
    full           `concerto learn`
    no-transfer    `concerto learn --no-transfer`
    no-induction   `concerto learn --no-induction`

The arms run one after the other, as in `concerto reproduce se-gpt`; the same command goes on where it was cut off.
`refused` are replies that did not fit their form, `failed` steps that got no usable reply in all their attempts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.commands.streams import Endpoint, Summary, run_streams, write_questions
from cluster.reporting.estimators import Rate
from trajectories.files import written_aside


def table(summaries: dict[str, Summary], questions: int) -> Table:
    shown = Table(title=f"{questions} questions an arm")
    for heading in ("arm", "right [95 %]", "tokens a question", "replies", "refused", "failed", "items"):
        shown.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm, summary in summaries.items():
        counts = summary["tokens"].values()
        tokens = sum(step["prompt_tokens"] + step["completion_tokens"] for step in counts)
        calls, retries = (sum(step[name] for step in counts) for name in ("calls", "retries"))
        numbers = (round(tokens / questions), calls, retries, summary["failed"], summary["items"])
        success = Rate.model_validate(summary["success"])
        shown.add_row(arm, f"{success} of {success.episodes}", *(f"{number:,}" for number in numbers))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    console, tasks = Console(width=110), options.out / "tasks.jsonl"
    write_questions(tasks, options.questions)
    summaries = run_streams(tasks, Endpoint(options.base_url, options.model), options.out, console)
    with written_aside(options.out / "streams.json") as aside:
        aside.write_text(json.dumps(summaries, indent=1) + "\n")
    console.print(table(summaries, options.questions))


if __name__ == "__main__":
    main()
