"""Ray actors, thin: rollout actors, environment hosts, and the engine, whose modules (`vllm_*`) alone import vLLM."""
