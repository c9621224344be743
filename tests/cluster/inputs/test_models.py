from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cluster.config.loading import load_config
from cluster.inputs.models import TINY, resolve_model
from cluster.inputs.run_plan import plan_run
from trajectories.errors import UserError


def test_quantised_weights_are_refused_before_the_start_unless_adapters_are_trained(tmp_path: Path) -> None:
    """The engine repacks such layers as it loads them, so that nothing could be published to it."""
    model = shutil.copytree(resolve_model(TINY), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UserError, match=r"has quantised weights, .* \(policy\.lora\.rank=16\)\.$"):
        plan_run(load_config("local", None, [f"policy.model={model}"]), tmp_path / "run", resume=False)
    adapters = load_config("local", None, [f"policy.model={model}", "policy.lora.rank=16"])
    assert plan_run(adapters, tmp_path / "adapters", resume=False).model == str(model)
