"""Ray actors, thin: rollout actors, environment hosts, and the engine (`vllm_engine` and `vllm_worker` alone are on vLLM)."""
