"""The engine on real vLLM, against transformers as the reference."""

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.engine import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    EngineDied,
    EngineError,
    EngineSettings,
    SamplingParameters,
)
from learners.policy.weight_update import AdapterUpdate, WeightOffer, serialize
from tests.actors.conftest import EngineUnderTest

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

PROMPT = np.arange(20, 90, dtype=np.int32)
PARITY = 1e-4


async def check_parity(under_test, version: int, temperature: float = 1.0) -> None:
    """A response sampled now carries the reference model's log-probabilities, and so does a scored sequence."""
    sampling = SamplingParameters(temperature=temperature, max_tokens=12)
    generation = await under_test.engine.generate(PROMPT, sampling, seed=version)
    assert generation.version == version
    sequence = np.concatenate([PROMPT, generation.token_ids])
    expected = under_test.logprobs(sequence, temperature)
    assert np.abs(generation.logprobs - expected[len(PROMPT) :]).max() < PARITY
    (scored,) = await under_test.engine.score_logprobs([sequence], temperature)
    assert np.abs(scored - expected).max() < PARITY


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE])
async def test_logprobs_are_those_of_the_sampling_distribution(untied, temperature):
    await check_parity(untied, untied.version, temperature)


@pytest.mark.parametrize("asked", [LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 0.7])
async def test_the_engine_keeps_the_temperature_that_is_asked(asked):
    """It would raise a lower one to 0.01 while the learner divides by what was asked."""
    from vllm import SamplingParams

    assert SamplingParams(temperature=asked).temperature == asked
    below, above = np.nextafter(LOWEST_TEMPERATURE, 0), np.nextafter(HIGHEST_TEMPERATURE, 3)
    assert SamplingParams(temperature=below).temperature > below
    for refused in (below, above, -1.0, float("nan")):
        with pytest.raises(EngineError, match=r"take 0 \(greedy\), or one from 0\.01 to 2"):
            SamplingParameters(temperature=refused)


async def test_greedy_takes_the_likeliest_token_and_reports_temperature_one(untied):
    generation = await untied.engine.generate(PROMPT, SamplingParameters(temperature=0.0, max_tokens=8))
    again = await untied.engine.generate(PROMPT, SamplingParameters(temperature=0.0, max_tokens=8))
    assert generation.token_ids.tolist() == again.token_ids.tolist()
    sequence = np.concatenate([PROMPT, generation.token_ids])
    assert np.abs(generation.logprobs - untied.logprobs(sequence)[len(PROMPT) :]).max() < PARITY


async def test_a_stop_token_ends_the_response_and_is_part_of_it(untied):
    free = await untied.engine.generate(PROMPT, SamplingParameters(max_tokens=8), seed=7)
    assert len(free.token_ids) == len(free.logprobs) == 8 and not free.finished
    stop = int(free.token_ids[3])
    stopped = await untied.engine.generate(PROMPT, SamplingParameters(max_tokens=8, stop_token_ids=(stop,)), seed=7)
    end = free.token_ids.tolist().index(stop) + 1
    assert stopped.finished and stopped.token_ids.tolist() == free.token_ids[:end].tolist()


async def test_more_seeded_prompts_than_one_pass_holds_do_not_kill_the_engine(untied):
    """vLLM cuts prompts into chunks when a pass is full, and fails on the generator of a seeded one on a CPU."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(20, 90, 240, dtype=np.int32) for _ in range(24)]
    sampling = SamplingParameters(max_tokens=2)
    answers = await asyncio.gather(*(untied.engine.generate(p, sampling, seed) for seed, p in enumerate(prompts)))
    assert all(len(answer.token_ids) == 2 for answer in answers)


async def test_more_seeded_prompts_than_fit_one_pass(untied):
    """vLLM would cut one of them into chunks, and its CPU engine dies of that."""
    prompts = [np.random.default_rng(seed).integers(20, 380, 220).astype(np.int32) for seed in range(60)]
    sampling = SamplingParameters(max_tokens=4)
    core = core_of(untied.engine)
    core.suspend()  # so that it finds all of them waiting
    running = [asyncio.create_task(untied.engine.generate(prompt, sampling, at)) for at, prompt in enumerate(prompts)]
    await asyncio.sleep(0.3)
    core.resume()
    assert [len((await response).token_ids) for response in running] == [4] * 60


async def test_many_sequences_are_scored_at_once_and_short_ones_too(untied):
    sequences = [PROMPT[:length] for length in (1, 2, 33, 64)]
    scores = await untied.engine.score_logprobs(sequences)
    for sequence, score in zip(sequences, scores, strict=True):
        assert score.dtype == np.float32 and np.abs(score - untied.logprobs(sequence)).max() < PARITY


async def test_full_weights_are_published_to_an_untied_model(untied):
    await check_parity(untied, untied.version)  # leaves the prompt in the prefix cache
    for seed in (1, 2):
        await untied.publish(seed)
        await check_parity(untied, untied.version)


@pytest.mark.parametrize("leave_out", [(), ("lm_head.weight",)], ids=["with head", "without head"])
async def test_full_weights_are_published_to_a_tied_model(tied, leave_out):
    """DESIGN's trap: on a CPU, vLLM's own reload goes on sampling with the old output head."""
    await check_parity(tied, tied.version)
    for seed in (3, 4):
        await tied.publish(seed, leave_out)
        await check_parity(tied, tied.version)


async def test_a_response_in_progress_is_finished_by_the_weights_that_began_it(untied):
    before, sampling = untied.version, SamplingParameters(max_tokens=150)
    running = [asyncio.create_task(untied.engine.generate(PROMPT, sampling, seed)) for seed in range(4)]
    while untied.engine.stats().running < 4:
        await asyncio.sleep(0.001)
    publication = asyncio.create_task(untied.publish(5))
    await asyncio.sleep(0.001)
    late = asyncio.create_task(untied.engine.generate(PROMPT, sampling, 9))
    assert [(await generation).version for generation in running] == [before] * 4
    await publication
    assert (await late).version == before + 1


async def test_older_weights_and_the_wrong_kind_are_refused(untied):
    with pytest.raises(EngineError, match="are older than version"):
        await untied.engine.publish(WeightOffer(-1, "localhost", 1, "a"))
    with pytest.raises(EngineError, match=r"adapters published to an engine without engine\.lora settings"):
        await untied.engine.publish(AdapterUpdate(99, b"", {}))


async def test_refusals_carry_the_engines_own_text(untied):
    with pytest.raises(EngineError, match=r"generate: .*256"):
        await untied.engine.generate(np.zeros(300, np.int32), SamplingParameters())


async def test_adapters_are_published_and_old_ones_unloaded(lora):
    await check_adapters(lora, 3)


async def check_adapters(lora: EngineUnderTest, versions: int) -> None:
    """Publish adapters, one after the other, to an engine that has none yet."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    await check_parity(lora, 0)
    lora.model = get_peft_model(lora.model, config)
    for version in range(1, versions + 1):
        for name, parameter in lora.model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_(std=0.2)
        tensors = serialize(get_peft_model_state_dict(lora.model))
        adapter = config.to_dict() | {"target_modules": sorted(config.target_modules or ()), "peft_type": "LORA"}
        running = asyncio.create_task(lora.engine.generate(PROMPT, SamplingParameters(max_tokens=100)))
        while lora.engine.stats().running < 1:
            await asyncio.sleep(0.001)
        await lora.engine.publish(AdapterUpdate(version, tensors, adapter))
        await check_parity(lora, version)
        assert (await running).version == version - 1
        assert set(await lora.engine._llm.list_loras()) == {version}


async def test_a_hanging_engine_is_reported_after_the_deadline_and_not_trusted_again(tied):
    """The last test on this engine."""
    core = core_of(tied.engine)
    core.suspend()
    try:
        with pytest.raises(EngineError, match=r"publish version \d+: no answer from the engine within 5 s"):
            await tied.publish(6)
    finally:
        core.resume()
    with pytest.raises(EngineDied, match="half loaded"):
        await tied.engine.generate(PROMPT, SamplingParameters())


async def test_a_killed_engine_process_is_reported_as_death(lora):
    """The last test on this engine, whose sockets are among the files that go with it."""
    assert any(path.is_socket() for path in lora.engine._directory.iterdir())
    core_of(lora.engine).kill()
    for _ in range(2):
        with pytest.raises(EngineDied, match="the engine died"):
            await lora.engine.generate(PROMPT, SamplingParameters())
    assert not lora.engine._directory.exists()


async def test_what_is_no_model_is_refused_before_any_process_starts(tmp_path):
    from actors.vllm_engine import VllmEngine

    children = len(psutil.Process().children())
    with pytest.raises(EngineError, match="the engine cannot serve") as refusal:
        await VllmEngine.start(str(tmp_path), EngineSettings())
    assert "\n" not in str(refusal.value) and len(psutil.Process().children()) == children


def core_of(engine) -> psutil.Process:
    """The process of vLLM's engine core: the one that writes this engine's log."""
    log = str(Path(engine._directory) / "errors.log")
    return next(
        child
        for child in psutil.Process().children(recursive=True)
        if any(file.path == log for file in child.open_files())
    )
