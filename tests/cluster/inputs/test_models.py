from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from huggingface_hub import HfApi

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


def test_a_name_that_no_hub_gives_is_refused_after_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(self: HfApi, name: str, timeout: float) -> NoReturn:
        asked.append(name)
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(HfApi, "model_info", unknown)
    with pytest.raises(UserError, match=r"no model 'some/model' here.* \(Name or service not known\): give"):
        resolve_model("some/model")
    assert asked == ["some/model"]


def test_a_model_in_the_cache_of_the_hub_is_asked_of_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "models--some--cached"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_model("some/cached") == "some/cached"
