"""The Conductor: which reward channel to weigh how, from what the policy has in mind. RLlib module and learner.

A contextual bandit (arXiv 2601.07208): the context is the policy's final state h after prompt and response, the action
a reward channel, the reward an advantage. One linear head, trained by REINFORCE with an entropy bonus, on the CPU.

RLlib takes seconds to import and is imported here only: import this module where a Conductor lives, not at start-up.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor, nn

from learners.rewards.conductor_head import ConductorHead, log_probabilities
from learners.rewards.reward_settings import ConductorSettings

TEMPERATURES = (0.3, 3.0)
"""Range of the learned temperature."""

WEIGHT_DECAY = 0.01
"""Decay of the head's matrix; bias and temperature do not decay."""


def meta_loss(log_probabilities: Tensor, choices: Tensor, meta_rewards: Tensor, entropy_weight: float) -> Tensor:
    """-1/n sum of A log pi(a|h) + lambda H(pi(.|h)), a scalar.

    Args:
        log_probabilities: [n, K], with a gradient.
        choices: int64 [n], the sampled channels a.
        meta_rewards: [n], what each earned, A.
        entropy_weight: lambda.
    """
    chosen = log_probabilities.gather(1, choices[:, None]).squeeze(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    return -(meta_rewards * chosen + entropy_weight * entropy).mean()


class ConductorModule(TorchRLModule):
    """pi(.|h) = floored softmax of (W norm(h) + b) / tau, starting at uniform: W = 0, b = 0, tau = 1."""

    def setup(self) -> None:
        hidden, channels = self.observation_space.shape[0], int(self.action_space.n)
        self.weight = nn.Parameter(torch.zeros(channels, hidden))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.temperature = nn.Parameter(torch.ones(1))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Contexts float32 [n, H] -> log pi [n, K], which are also the logits of RLlib's categorical distribution."""
        found = log_probabilities(batch[Columns.OBS], self.weight, self.bias, self.temperature)
        return {Columns.ACTION_DIST_INPUTS: found}


class ConductorLearner(TorchLearner):
    """One AdamW step on the meta-loss per batch of contexts, choices and meta-rewards."""

    @property
    def network(self) -> ConductorModule:
        """The only module."""
        module = self.module[DEFAULT_MODULE_ID]
        assert isinstance(module, ConductorModule)
        return module

    def configure_optimizers_for_module(self, module_id: str, config: AlgorithmConfig | None = None) -> None:
        assert config is not None
        parameters = dict(self.network.named_parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [parameters["weight"]], "weight_decay": WEIGHT_DECAY},
                {"params": [parameters["bias"], parameters["temperature"]], "weight_decay": 0.0},
            ]
        )
        self.register_optimizer(
            module_id=module_id, optimizer=optimizer, params=list(parameters.values()), lr_or_lr_schedule=config.lr
        )

    def compute_loss_for_module(
        self, *, module_id: str, config: AlgorithmConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        return meta_loss(
            fwd_out[Columns.ACTION_DIST_INPUTS],
            batch[Columns.ACTIONS],
            batch[Columns.ADVANTAGES],
            config.learner_config_dict["entropy_weight"],
        )

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Keeps the temperature in its range; at the edge it still has a gradient, so it can come back."""
        super().after_gradient_based_update(timesteps=timesteps)
        with torch.no_grad():
            self.network.temperature.clamp_(*TEMPERATURES)


def build_learner(hidden: int, channels: int, config: ConductorSettings) -> ConductorLearner:
    """A learner on the CPU of this process; it needs no Ray cluster and leaves global random states alone.

    Args:
        hidden: H, size of a context.
        channels: K.
    """
    algorithm = (
        AlgorithmConfig()
        .framework("torch")
        .learners(num_learners=0, num_gpus_per_learner=0, learner_config_dict={"entropy_weight": config.entropy_weight})
        .training(lr=config.lr)
    )
    spec = RLModuleSpec(
        module_class=ConductorModule,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (hidden,), np.float32),
        action_space=gym.spaces.Discrete(channels),
        model_config={},
    )
    learner = ConductorLearner(
        config=algorithm, module_spec=MultiRLModuleSpec(rl_module_specs={DEFAULT_MODULE_ID: spec})
    )
    learner.build()
    return learner


def head(learner: ConductorLearner, version: int) -> ConductorHead:
    """A copy of the parameters, for those who weigh by them."""
    network = learner.network
    weight, bias, temperature = (
        parameter.detach().clone() for parameter in (network.weight, network.bias, network.temperature)
    )
    return ConductorHead(weight, bias, temperature, version)


def update(learner: ConductorLearner, contexts: Tensor, choices: Tensor, meta_rewards: Tensor) -> dict[str, float]:
    """One optimiser step on n contexts [n, H], choices int64 [n] and meta-rewards [n].

    Returns:
        Metrics: `loss` before the step and `temperature` after it.
    """
    columns = {Columns.OBS: contexts, Columns.ACTIONS: choices, Columns.ADVANTAGES: meta_rewards.float()}
    rows = SampleBatch({name: column.numpy() for name, column in columns.items()})
    results = learner.update(batch=MultiAgentBatch({DEFAULT_MODULE_ID: rows}, env_steps=len(contexts)))
    return {
        "loss": float(results[DEFAULT_MODULE_ID][learner.TOTAL_LOSS_KEY].peek()),
        "temperature": learner.network.temperature.item(),
    }
