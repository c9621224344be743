"""Learner workers: what one does with its part of the policy, and the Ray Train pool of all of them."""
