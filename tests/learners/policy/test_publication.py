from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from learners.learner_settings import LoraSettings, OptimizerSettings, PolicySettings
from learners.policy.publication import ADAPTER, write_model
from learners.policy.shard import PolicyShard
from tests.actors.test_publication_families import FAMILIES, SIZES, make_shard, random_model


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


@pytest.fixture(params=["untied_model", "tied_model"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model as they are published: in bfloat16."""
    source = request.getfixturevalue(request.param)
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, learned: float) -> PolicyShard:
    """A policy in bfloat16 whose adapters have learned so much in each entry of B."""
    lora = LoraSettings(rank=4, alpha=8)
    shard = PolicyShard(PolicySettings(model=str(base), dtype="bfloat16", lora=lora), OptimizerSettings())
    with torch.no_grad():
        for name, parameter in shard.model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(learned)
    return shard


def test_what_adapters_learned_below_a_step_of_bfloat16_is_saved(base: Path, tmp_path: Path) -> None:
    shard = adapted(base, 1e-4)
    shard.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "float32"
    before = dict(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).named_parameters())
    adapters = {name: tensor for name, tensor in shard.model.named_parameters() if ".lora_A." in name}
    deltas = {
        name.removeprefix("lm.base_model.model.").replace(".lora_A.default", ""): 2 * 1e-4 * down.sum(0)
        for name, down in adapters.items()
    }
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert len(deltas) == 14
    for name, weight in saved.named_parameters():
        assert weight.dtype == torch.float32
        expected = deltas[name].expand_as(weight) if name in deltas else torch.zeros_like(weight)
        torch.testing.assert_close(weight - before[name], expected, atol=1e-8, rtol=1e-3)


def test_the_adapter_beside_the_merged_model_gives_the_same_logits_on_the_base(base: Path, tmp_path: Path) -> None:
    adapted(base, 1e-2).save_pretrained(tmp_path / "saved")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        untaught, expected = plain(ids).logits, merged(ids).logits
        found = PeftModel.from_pretrained(plain, str(tmp_path / "saved" / ADAPTER))(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (untaught - expected).abs().max() > 1e-3


def test_full_weights_are_saved_in_the_precision_of_the_policy_without_a_folder_for_adapters(
    base: Path, tmp_path: Path
) -> None:
    PolicyShard(PolicySettings(model=str(base), dtype="bfloat16"), OptimizerSettings()).save_pretrained(tmp_path / "a")
    assert {tensor.dtype for tensor in load_file(tmp_path / "a" / "model.safetensors").values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "a").dtype == torch.bfloat16
    assert not (tmp_path / "a" / ADAPTER).exists()


def test_a_generation_config_that_contradicts_itself_is_written_as_the_model_brought_it(
    base: Path, tmp_path: Path
) -> None:
    """Llama 2 and Vicuna, for example; transformers reads it with a warning and refuses to write it."""
    brought = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 2}
    (base / "generation_config.json").write_text(json.dumps(brought))
    for lora in (None, LoraSettings(rank=4)):
        folder = tmp_path / f"saved-{lora is None}"
        PolicyShard(PolicySettings(model=str(base), lora=lora), OptimizerSettings()).save_pretrained(folder)
        assert json.loads((folder / "generation_config.json").read_text()).items() >= brought.items()


def test_the_bias_by_which_a_router_chooses_experts_is_saved_in_the_precision_it_was_loaded_in(tmp_path: Path) -> None:
    """Such biases lie close together and far from 0, where bfloat16 has hardly any numbers."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
    about = AutoConfig.for_model("glm4_moe", **SIZES, **experts, head_dim=32, n_group=1, topk_group=1)
    lm, bias = AutoModelForCausalLM.from_config(about, dtype=torch.bfloat16), torch.tensor([7.001, 7.002, 7.003, 7.004])
    lm.get_submodule("model.layers.1.mlp.gate").register_buffer("e_score_correction_bias", bias)
    lm.save_pretrained(tmp_path / "base")
    for lora in (None, LoraSettings(rank=4, target_modules=("q_proj",))):
        config = PolicySettings(model=str(tmp_path / "base"), dtype="bfloat16", lora=lora)
        shard, folder = PolicyShard(config, OptimizerSettings()), tmp_path / f"saved-{lora is None}"
        write_model(shard.model, dict(shard.model.state_dict()), folder, config)
        saved = load_file(folder / "model.safetensors")
        torch.testing.assert_close(saved["model.layers.1.mlp.gate.e_score_correction_bias"], bias, rtol=0, atol=0)
        assert saved["model.layers.0.mlp.gate_proj.weight"].dtype == (torch.float32 if lora else torch.bfloat16)
