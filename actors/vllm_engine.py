"""The engine on vLLM, as the actor's process sees it: `AsyncLLM`, its settings, and publication of weights. Only this
module and `actors.vllm_worker`, which is what lives inside vLLM's own processes, import vLLM; they work with 0.26 to
0.33, on GPUs or on a CPU.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from vllm import SamplingParams
from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from actors.admission import Admission
from actors.engine import EngineDied, EngineError, EngineSettings, EngineStats, Generation, SamplingParameters
from actors.engine_limits import LORA_RANKS
from actors.engine_process import (
    environment,
    failed_start,
    last_words,
    one_line,
    private_directory,
    write_adapter,
)
from actors.vllm_worker import EXTENSION, executor
from learners.policy.weight_update import AdapterUpdate, WeightOffer, WeightUpdate

Result = TypeVar("Result")

CPU_PREFILL_TOKENS = 8192
"""Prompt tokens in one forward pass on a CPU."""


@dataclass(slots=True)
class _Adapter:
    """A published LoRA version and the requests that still use it."""

    request: LoRARequest
    users: int = 0


class VllmEngine:
    """`actors.engine.Engine` on vLLM. Lives in one event loop; make it with `await VllmEngine.start(...)`."""

    def __init__(self, llm: AsyncLLM, settings: EngineSettings, directory: Path, lock: IO[bytes]) -> None:
        self._llm = llm
        self._settings = settings
        self._directory = directory
        self._lock = lock
        self._admission = Admission()
        self._publication = asyncio.Lock()
        self._adapter: _Adapter | None = None
        self._adapters = 0
        self._version = 0
        self._failure = ""
        self._requests = 0
        self._generated_tokens = 0

    @classmethod
    async def start(cls, model: str, settings: EngineSettings) -> VllmEngine:
        """Load a model directory or name as version 0. Blocks the event loop until it is loaded.

        Raises:
            EngineError: no such model, it does not fit, or it took too long.
        """
        directory, lock = private_directory()
        try:
            with environment(_process_environment(settings, directory)):
                args = _engine_args(model, settings, directory)
                llm = AsyncLLM.from_engine_args(args, stat_loggers=_stat_loggers(settings))
        except Exception as error:
            reason = failed_start(directory) or one_line(error)
            lock.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise EngineError(f"the engine cannot serve {model}: {reason}") from error
        return cls(llm, settings, directory, lock)

    async def generate(
        self, prompt_ids: npt.NDArray[np.int32], sampling: SamplingParameters, seed: int | None = None
    ) -> Generation:
        """See `actors.engine.Engine.generate`."""
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=-1,
            min_p=0.0,
            seed=seed,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=True,  # all stop tokens are given
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(json=sampling.schema) if sampling.schema else None,
        )
        async with self._admission.admitted(), self._adapted() as adapter:
            version = self._version
            output = (await self._request("generate", prompt_ids, params, adapter)).outputs[0]
        token_ids = np.asarray(output.token_ids, np.int32)
        steps = zip(output.token_ids, cast(list[dict[int, Logprob]], output.logprobs), strict=True)
        logprobs = np.asarray([step[token].logprob for token, step in steps], np.float32)
        self._generated_tokens += len(token_ids)
        return Generation(token_ids, logprobs, version, finished=output.stop_reason is not None)

    async def score_logprobs(
        self, sequences: Sequence[npt.NDArray[np.int32]], temperature: float = 1.0
    ) -> list[npt.NDArray[np.float32]]:
        """See `actors.engine.Engine.score_logprobs`.

        At a temperature other than 1 the whole vocabulary travels for every token (vLLM scores prompts at
        temperature 1 only): meant for the parity check, not for bulk scoring.
        """
        width = 0 if temperature == 1.0 else -1
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=width, detokenize=False)

        async def score(token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
            if len(token_ids) < 2:
                return np.zeros(len(token_ids), np.float32)
            async with self._adapted() as adapter:
                output = await self._request("score_logprobs", token_ids, params, adapter)
            assert output.prompt_logprobs is not None
            rows = zip(token_ids[1:].tolist(), output.prompt_logprobs[1:], strict=True)
            return np.asarray([0.0, *(_tempered(row, token, temperature) for token, row in rows)], np.float32)

        async with self._admission.admitted():
            return list(await asyncio.gather(*(score(token_ids) for token_ids in sequences)))

    async def publish(self, update: WeightUpdate) -> None:
        """See `actors.engine.Engine.publish`. Full weights wait for running responses; adapters need not."""
        if isinstance(update, AdapterUpdate) != (self._settings.lora is not None):
            what, state = ("all weights", "with") if self._settings.lora else ("adapters", "without")
            raise EngineError(f"{what} published to an engine {state} engine.lora settings")
        async with self._publication:
            if update.version < self._version:
                raise EngineError(f"weights of version {update.version} are older than version {self._version} in use")
            await (self._publish_lora(update) if isinstance(update, AdapterUpdate) else self._publish_full(update))

    def stats(self) -> EngineStats:
        return EngineStats(self._version, self._admission.inside, self._generated_tokens)

    async def close(self) -> None:
        """End the engine's process and remove its files."""
        self._failure = "the engine was closed"
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # or it would report the end of its process as a failure
        await asyncio.to_thread(self._llm.shutdown)
        del self._llm  # its finaliser must not run when the interpreter is half gone
        self._lock.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _request(
        self, what: str, prompt_ids: npt.NDArray[np.int32], params: SamplingParams, adapter: LoRARequest | None
    ) -> RequestOutput:
        if self._failure:
            raise EngineDied(self._failure)
        self._requests += 1
        request_id = f"{what}-{self._requests}"

        async def last_output() -> RequestOutput:
            prompt: Any = {"prompt_token_ids": prompt_ids.tolist()}
            outputs = [out async for out in self._llm.generate(prompt, params, request_id, lora_request=adapter)]
            return outputs[-1]

        return await self._bounded(what, last_output(), self._settings.request_timeout_s)

    async def _publish_full(self, offer: WeightOffer) -> None:
        await self._control(
            "publish: wait for running requests", self._admission.close(self._settings.control_timeout_s)
        )
        try:
            # A little sooner than ours, so that the worker can say whom it waited for.
            patience = 0.9 * self._settings.control_timeout_s
            taking = self._llm.collective_rpc("take_weights", args=(offer.host, offer.port, offer.life, patience))
            await self._control(f"publish version {offer.version}", taking)
            if not await self._control("publish: reset the prefix cache", self._llm.reset_prefix_cache()):
                raise EngineError("publish: the engine kept its prefix cache, so old keys and values would be used")
            self._version = offer.version
        except EngineError as error:
            self._failure = f"{error} (the weights may be half loaded)"
            raise EngineDied(self._failure) from error
        finally:
            await self._admission.open()

    async def _publish_lora(self, update: AdapterUpdate) -> None:
        self._adapters += 1
        name = f"policy-{update.version}-{self._adapters}"  # a name of its own: vLLM keys its caches by it
        folder = self._directory / name
        write_adapter(folder, update.tensors, update.adapter_config)
        request = LoRARequest(lora_name=name, lora_int_id=self._adapters, lora_path=str(folder))
        if not await self._control(f"publish version {update.version}", self._llm.add_lora(request)):
            raise EngineError(f"publish: the engine refused the adapter of version {update.version}")
        old, self._adapter, self._version = self._adapter, _Adapter(request), update.version
        if old is not None and old.users == 0:
            await self._retire(old)

    @asynccontextmanager
    async def _adapted(self) -> AsyncIterator[LoRARequest | None]:
        """The adapter in use, kept loaded for as long as the request lasts."""
        adapter = self._adapter
        if adapter is None:
            yield None
            return
        adapter.users += 1
        try:
            yield adapter.request
        finally:
            adapter.users -= 1
            if adapter.users == 0 and adapter is not self._adapter:
                await self._retire(adapter)

    async def _retire(self, adapter: _Adapter) -> None:
        await self._control("unload an old adapter", self._llm.remove_lora(adapter.request.lora_int_id))
        shutil.rmtree(adapter.request.lora_path)

    async def _control(self, what: str, call: Awaitable[Result]) -> Result:
        return await self._bounded(what, call, self._settings.control_timeout_s)

    async def _bounded(self, what: str, call: Awaitable[Result], timeout_s: float) -> Result:
        """The call's result; whatever goes wrong becomes an EngineError with the engine's own text."""
        answer, handler = asyncio.ensure_future(call), self._llm.output_handler
        assert handler is not None  # ends with vLLM's process, of which control calls would learn nothing
        try:
            await asyncio.wait({answer, handler}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if handler.done() and not answer.done():
                raise EngineDeadError
            return await asyncio.wait_for(answer, 0)
        except TimeoutError:
            raise EngineError(f"{what}: no answer from the engine within {timeout_s:g} s") from None
        except EngineDeadError as error:
            self._failure = self._failure or f"the engine died: {last_words(self._directory) or error}"
            shutil.rmtree(self._directory, ignore_errors=True)
            raise EngineDied(f"{what}: {self._failure}") from error
        except Exception as error:
            raise EngineError(f"{what}: {one_line(error.__cause__ or error)}") from error
        finally:
            answer.cancel()


def _engine_args(model: str, settings: EngineSettings, directory: Path) -> AsyncEngineArgs:
    on_cpu = current_platform.is_cpu()
    options: dict[str, Any] = {}
    if settings.structured_outputs:  # small models write blanks without end where a schema lets them
        options["structured_outputs_config"] = StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True)
    if settings.lora:
        options |= {
            "enable_lora": True,
            "max_loras": 2,  # while requests finish with the old adapter, others start with the new one
            "max_lora_rank": next(size for size in LORA_RANKS if size >= settings.lora.max_rank),
            "lora_target_modules": list(settings.lora.target_modules),
        }
    if on_cpu:
        options |= {
            # The smallest block of the CPU kernels: what lies beyond the last whole block of a conversation is
            # computed again at the next turn.
            "block_size": 32,
            # With a given size, and without compilation, vLLM leaves out its warm-up pass.
            "kv_cache_memory_bytes": settings.cpu_kv_cache_mib << 20,
            # A prompt cut into chunks makes vLLM wind back the random generator of a seeded request, which torch
            # cannot do on a CPU: the engine would die. Whole prompts only.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(CPU_PREFILL_TOKENS, settings.max_model_len),
        }
    return AsyncEngineArgs(
        model=model,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.enforce_eager or on_cpu,
        enable_prefix_caching=settings.enable_prefix_caching,
        skip_tokenizer_init=not settings.structured_outputs,  # token in, token out: only a schema needs its text
        generation_config="vllm",  # none of the checkpoint's own sampling defaults
        logprobs_mode="processed_logprobs",
        max_logprobs=-1,
        disable_log_stats=not settings.metrics,
        tensor_parallel_size=settings.tensor_parallel,
        distributed_executor_backend=executor(settings.tensor_parallel),
        worker_extension_cls=EXTENSION,
        additional_config={"concerto": {"directory": str(directory), "cpu_threads": settings.cpu_threads}},
        **options,
    )


def _stat_loggers(settings: EngineSettings) -> list[Any] | None:
    if not settings.metrics:
        return None
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger  # imports Ray Serve, which takes seconds

    return [RayPrometheusStatLogger]


def _process_environment(settings: EngineSettings, directory: Path) -> dict[str, str]:
    """Environment variables that vLLM and its libraries read at start, out of the typed settings."""
    variables = {
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(settings.start_timeout_s)),
        "VLLM_RPC_BASE_PATH": str(directory),  # its sockets, which it would leave in the folder for temporary files
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked actor would share Ray's sockets and threads
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }
    if current_platform.is_cpu():
        variables |= {
            "OMP_NUM_THREADS": str(settings.cpu_threads),
            "OMP_WAIT_POLICY": "passive",  # waiting threads sleep: the cores belong to others too
            "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles one comparison in spite of enforce_eager
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it would bind each worker to a NUMA node of its own
        }
    return variables


def _tempered(row: Any, token: int, temperature: float) -> float:
    """log p(token) at the temperature, from log-probabilities at temperature 1 (of all tokens unless that is it)."""
    if temperature == 1.0:
        return row[token].logprob
    logits = np.asarray([entry.logprob for entry in row.values()], np.float64) / temperature
    return row[token].logprob / temperature - float(np.logaddexp.reduce(logits))
