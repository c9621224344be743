"""What generates text, seen from outside: the `Engine` protocol, its settings, requests and answers. Knows no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveFloat, PositiveInt

from trajectories.errors import ConcertoError
from trajectories.settings import Settings

if TYPE_CHECKING:
    from learners.policy.weight_update import WeightUpdate

LOWEST_TEMPERATURE = 0.01
"""Below it vLLM samples at 0.01 whatever was asked, down to 0, which is greedy."""
HIGHEST_TEMPERATURE = 2.0
"""Above it vLLM refuses."""


class EngineError(ConcertoError):
    """The engine refused, failed or did not answer in time. One line, with the engine's own words."""


class EngineDied(EngineError):
    """The engine's process is gone, or its weights are half loaded: this engine is of no use any more."""


class AdapterSettings(Settings):
    """Room for adapters; present if and only if weights are published as LoRA."""

    max_rank: PositiveInt = 16
    """Highest rank that a published adapter may have. Tuning: a run sets it to policy.lora.rank."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Layers that a published adapter may change. Never the output head: with room for it vLLM cannot score prompts,
    and every token costs more. Tuning: those of policy.lora.target_modules, which a run sets."""


class EngineSettings(Settings):
    """How the engine is set up. On a GPU the defaults are vLLM's own choices; the CPU fields act only without one."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of weights and KV cache; `auto` is policy.dtype. Tuning: parity within 1e-3 needs float32; so does a
    model that a run with adapters has saved."""
    max_model_len: PositiveInt = 2048
    """Tokens of prompt and response together. A response may take what its prompt leaves; an episode ends with
    `length_limit` where that is not enough, or fewer than 8 tokens. Tuning: above the longest episode; windowed prompts
    need far less."""
    max_num_seqs: PositiveInt = 64
    """Requests in one forward pass; more wait. Tuning: at least the episodes that run at once."""
    gpu_memory_utilization: PositiveFloat = Field(default=0.85, le=1)
    """Share of the GPU's memory for weights and KV cache. Tuning: about 0.4 when a learner shares the GPU."""
    enforce_eager: bool = False
    """Without CUDA graphs and compilation: starts sooner, runs slower. On a CPU the engine is always eager, because
    compiling takes half a minute and gains a fifth. Tuning: for short trials only."""
    enable_prefix_caching: bool = True
    """Keep the keys and values of earlier turns. Tuning: off, every turn computes its whole conversation again."""
    tensor_parallel: PositiveInt = 1
    """Worker processes that share every layer between them, each on a GPU of its own; without GPUs, on cores of its
    own. Tuning: leave it at 1: a run sets it to placement.rollout_gpus where that is above 1. On a CPU for trials of
    such a run only."""
    structured_outputs: bool = False
    """Responses can be bound to a JSON schema: the engine loads the tokenizer too. Tuning: leave it at false: a run
    sets it where experience.base_url is policy."""
    metrics: bool = False
    """vLLM's own metrics (requests that run and wait, use of the KV cache, tokens) go to Ray's Prometheus endpoint.
    Tuning: leave it at false: a run that joins a cluster sets it."""
    lora: AdapterSettings | None = None
    cpu_threads: PositiveInt = 1
    """Threads of a forward pass on a CPU. Tuning: raise it only when so many cores are idle: threads that have to share
    a core spin at each other's barriers and make a small model ten times slower."""
    cpu_kv_cache_mib: PositiveInt = 512
    """MiB of KV cache on a CPU. Tuning: in float32 a token takes 8 x layers x key-value heads x head width bytes."""
    start_timeout_s: PositiveFloat = 600.0
    """Seconds from nothing to a loaded model. Tuning: large checkpoints on slow disks need more."""
    control_timeout_s: PositiveFloat = 120.0
    """Seconds for a publication or a pause, the wait for running requests included. Tuning: more for long responses."""
    request_timeout_s: PositiveFloat = 300.0
    """Seconds for one generation or one scored batch, time in the engine's queue included. Tuning: more for long
    responses."""


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How a response is sampled: from the whole distribution (top_p 1, no top_k, no min_p), so that behaviour
    log-probabilities are those of the policy.

    Attributes:
        temperature: divides the logits; 0 is greedy (evaluation), else from `LOWEST_TEMPERATURE` to
            `HIGHEST_TEMPERATURE`.
        max_tokens: longest response.
        stop_token_ids: end a response; the stop token is its last token.
        schema: JSON schema that binds the response, as text; empty: none. What it binds is no sample of the policy, and
            nothing is trained on it.
    Raises:
        EngineError: the engine would sample at another temperature than is asked.
    """

    temperature: float = 1.0
    max_tokens: int = 24
    stop_token_ids: tuple[int, ...] = ()
    schema: str = ""

    def __post_init__(self) -> None:
        if self.temperature and not LOWEST_TEMPERATURE <= self.temperature <= HIGHEST_TEMPERATURE:
            raise EngineError(
                f"temperature {self.temperature:g}: take 0 (greedy), or one from {LOWEST_TEMPERATURE:g} to "
                f"{HIGHEST_TEMPERATURE:g}; the engine would sample at another"
            )


@dataclass(frozen=True, slots=True)
class Generation:
    """One response.

    Attributes:
        token_ids: int32 [n], the stop token included.
        logprobs: float32 [n], of each token under the sampling distribution, that is at the temperature; greedy
            responses carry those at temperature 1.
        version: version of the weights that sampled all of it: a publication never happens within a response.
        finished: ended by a stop token, not by its length.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    version: int
    finished: bool


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How an engine is.

    Attributes:
        version: version of the weights in use.
        running: requests inside the engine now.
        generated_tokens: tokens sampled since the start.
    """

    version: int
    running: int
    generated_tokens: int


class Engine(Protocol):
    """Generates, scores, and takes new weights. All errors are `EngineError`."""

    async def generate(
        self, prompt_ids: npt.NDArray[np.int32], sampling: SamplingParameters, seed: int | None = None
    ) -> Generation:
        """Sample one response. Waits while weights are published."""
        ...

    async def score_logprobs(
        self, sequences: Sequence[npt.NDArray[np.int32]], temperature: float = 1.0
    ) -> list[npt.NDArray[np.float32]]:
        """For each sequence [T]: float32 [T], log p(token t | tokens before t) at the temperature, 0 for the first."""
        ...

    async def publish(self, update: WeightUpdate) -> None:
        """Take these weights: running responses finish with the old ones, later ones are sampled by the new ones. What
        a `WeightOffer` offers the learner must send at the same time.

        The same version may come again; an older one is refused.
        """
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None: ...
