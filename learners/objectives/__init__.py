"""What the policy is trained for: SFT and GRPO, their losses and advantages as pure functions."""
