"""Training: one policy, two objectives (SFT and GRPO), a pool of workers, weight publication. No vLLM in here."""
