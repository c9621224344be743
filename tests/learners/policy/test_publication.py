from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learners.policy.publication import write_model
from tests.actors.test_publication_families import FAMILIES, make_shard, random_model


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_leave_under_the_names_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    """Engines load checkpoints; one tensor that holds all experts of a layer is transformers' own matter."""
    checkpoint = load_file(random_model(family, tmp_path / "model") / "model.safetensors")
    shard = make_shard(tmp_path / "model")
    write_model(shard.model, dict(shard.model.state_dict()), tmp_path / "again", shard.config)
    for tensors in (dict(shard.weights()), load_file(tmp_path / "again" / "model.safetensors")):
        assert tensors.keys() == checkpoint.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, checkpoint[name], rtol=0, atol=0)
