"""What a model, its tokenizer and its template cannot do with the settings is told before anything starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from transformers import AddedToken, AutoTokenizer, BloomConfig, Glm4MoeConfig, GPT2Config, Qwen3MoeConfig

from cluster.config.loading import load_config
from cluster.inputs.model_check import check_model, check_probed_model, rounding
from cluster.inputs.models import resolve_model
from learners.tiny.build import CHAT_TEMPLATE
from trajectories.errors import UserError

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + CHAT_TEMPLATE
)
"""As Gemma's."""
CHANGES_SYSTEM = CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message['content'].replace('play', 'sing') }}")
LEAVES_OUT_SYSTEM = CHAT_TEMPLATE.replace("{% else %}", "{% elif message['role'] == 'user' %}")
ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('One turn only') }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture
def model(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A model of one's own to spoil; without weights, which no check may read."""
    copy = shutil.copytree(tiny_model_dir, tmp_path / "model")
    save_file({}, copy / "model.safetensors")
    return copy


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def check(model: Path, *settings: str) -> str:
    return check_model(load_config("local", None, [f"policy.model={model}", *settings]))


def test_a_model_that_fits_passes_without_its_weights(model):
    assert check(model) == str(model)
    assert check(model, "policy.lora.rank=8", "router.policy=median_split") == str(model)
    assert check_probed_model(str(model)) == str(model)
    assert check_model(load_config("local")) == resolve_model("concerto-tiny")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["policy.lora.target_modules=[q_projj]"],
            r"target_modules names 'q_projj', but Qwen3ForCausalLM has no linear .* Did you mean 'q_proj'\? It has q_",
        ),
        (["policy.lora.target_modules=[q_proj,v_projj]"], "names 'v_projj'"),
        (["policy.lora.target_modules=[q_proj,embed_tokens]"], "names 'embed_tokens', but"),
        (["policy.lora.target_modules=[q_proj,lm_head]"], "names 'lm_head', the output head, .*: leave it out"),
        (["policy.lora.rank=1024"], "adapters of rank 1024: the engine serves up to rank 512"),
        (["rollout.engine.lora.max_rank=16"], r"policy\.lora trains none: leave it out"),
        (["policy.lora.rank=32", "rollout.engine.lora.max_rank=16"], r"no room for the adapters of policy\.lora"),
        (["rollout.engine.max_model_len=4096"], r"max_model_len=4096 is more than the 2048 .*: set it to 2048 or less"),
    ],
)
def test_settings_that_do_not_fit_the_model(model, settings, said):
    with pytest.raises(UserError, match=said):
        check(model, *settings)


def test_heads_without_a_kernel_are_refused_on_a_cpu_alone(model):
    change(model / "config.json", head_dim=16)
    with pytest.raises(UserError, match=r"heads of the model are 16 wide, .* 32, 64, .*placement\.rollout_gpus=1"):
        check(model)
    assert check(model, "placement.rollout_gpus=1") == str(model)


@pytest.mark.parametrize(
    ("sizes", "gpus", "said"),
    [
        ((14, 2, 4864), 4, r"14 attention heads, .* by 4 workers of .*: set placement\.rollout_gpus to one of 1, 2$"),
        ((12, 4, 192), 3, r"4 key heads .* by 3 workers .* to one of 1, 2, 4, 12$"),
        ((4, 4, 190), 4, r"width of 190 cannot be shared by 4 workers .* to one of 1, 2$"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_shared_by_so_many_workers_names_the_numbers_that_can(model, sizes, gpus, said):
    heads, keys, width = sizes
    change(model / "config.json", num_attention_heads=heads, num_key_value_heads=keys, intermediate_size=width)
    with pytest.raises(UserError, match=said):
        check(model, f"placement.rollout_gpus={gpus}")
    assert check(model, "placement.rollout_gpus=2") == str(model)


def test_on_a_cpu_the_number_of_workers_is_a_setting_of_the_engine(model):
    assert check(model, "rollout.engine.tensor_parallel=2") == str(model)
    with pytest.raises(
        UserError, match=r"by 3 workers of an engine: set rollout\.engine\.tensor_parallel to one of 1, 2$"
    ):
        check(model, "rollout.engine.tensor_parallel=3")


def test_a_model_without_the_attention_that_is_asked_for_says_so(model):
    BloomConfig(n_layer=2, hidden_size=64, n_head=2, vocab_size=384).save_pretrained(model)
    said = (
        r"has no attention 'sdpa', with which .* \(BloomForCausalLM does not support .* yet\); set policy\.model to one"
    )
    with pytest.raises(UserError, match=said) as refusal:
        check(model)
    assert len(str(refusal.value)) < 250 + len(str(model)), "Transformers' advice is left out"


def test_code_that_a_model_brings_is_not_run_and_not_asked_about(model, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    change(model / "config.json", model_type="own", auto_map=own)
    with pytest.raises(UserError, match=r"brings code of its own, which is not run; set policy\.model to one whose"):
        check(model)


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"model_type": "nothing"}, "nothing"),
        ({"model_type": "vit"}, "ViTConfig"),
        ({"hidden_size": "wide"}, "'wide'"),
        ({"num_hidden_layers": None}, "'num_hidden_layers'"),
    ],
)
def test_a_configuration_that_makes_no_language_model_is_one_line(model, broken, word):
    change(model / "config.json", **broken)
    with pytest.raises(UserError, match=rf"cannot be loaded as a Hugging Face causal .* \(.*{word}.*\);") as refusal:
        check(model)
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_of_another_model_is_refused(model):
    change(model / "config.json", vocab_size=100)
    with pytest.raises(UserError, match="has 384 tokens and the model only 100: save the model's own tokenizer"):
        check(model)


def test_a_control_token_that_the_template_does_not_write_needs_no_embedding(model):
    """Gemma-3's token for pictures, of which its smallest model has none."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([AddedToken("<image_soft_token>", special=True)])
    tokenizer.save_pretrained(model)
    assert check(model) == str(model)
    with pytest.raises(UserError, match="has 385 tokens and the model only 384"):
        check(model, "rollout.prompt.system=Look at <image_soft_token>.")


def test_adapters_go_on_linear_layers_of_their_own_only(model):
    """Experts that are fused into one tensor have none, and GPT-2's are no linear layers."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32, "vocab_size": 384}
    experts = Qwen3MoeConfig(**sizes, num_experts=4, max_position_embeddings=2048)  # pyright: ignore
    experts.save_pretrained(model)
    with pytest.raises(UserError, match=r"names 'gate_proj', but Qwen3MoeForCausalLM .* It has q_proj, "):
        check(model, "policy.lora.rank=8")
    GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=384, n_positions=2048).save_pretrained(model)
    with pytest.raises(UserError, match="names 'c_attn', but GPT2LMHeadModel has no linear layer"):
        check(model, "policy.lora.target_modules=[c_attn]")


@pytest.mark.parametrize("names", ["q_proj,gate_proj,up_proj,down_proj", "gate_proj,up_proj", "up_proj", "down_proj"])
def test_a_name_that_experts_share_with_a_linear_layer_is_refused(model, names):
    """GLM's and DeepSeek's first layer has no experts. PEFT would adapt the others' too, and at the end of the run
    nothing could merge that."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32, "vocab_size": 384}
    Glm4MoeConfig(**sizes, n_routed_experts=4, max_position_embeddings=2048).save_pretrained(model)  # pyright: ignore
    said = r"names '\w+_proj', which the experts of Glm4MoeForCausalLM have too, .*: leave it out\..* q_proj, k_proj"
    with pytest.raises(UserError, match=said):
        check(model, f"policy.lora.target_modules=[{names}]")
    assert check(model, "policy.lora.target_modules=[q_proj,o_proj]") == str(model)


def test_what_cannot_be_probed_is_refused_where_it_would_be(model):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32, "vocab_size": 384}
    Qwen3MoeConfig(**sizes, num_experts=4, max_position_embeddings=2048).save_pretrained(model)  # pyright: ignore
    said = "layer 0 of Qwen3MoeForCausalLM has no linear layer mlp.gate_proj"
    with pytest.raises(UserError, match=said):
        check_probed_model(str(model))
    with pytest.raises(UserError, match=said):
        check(model, "router.policy=median_split")
    assert check(model) == str(model)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, LEAVES_OUT_SYSTEM])
def test_a_template_without_a_system_role_is_no_hindrance(model, template):
    (model / "chat_template.jinja").write_text(template)
    assert check(model) == check(model, "rollout.prompt.system=Play.") == str(model)


def test_a_system_message_that_the_template_changes_is_refused_whoever_wrote_it(model):
    (model / "chat_template.jinja").write_text(CHANGES_SYSTEM)
    said = "does not show the system message as it stands: .* write another system message"
    with pytest.raises(UserError, match=said):
        check(model, "rollout.prompt.system=You play a text game.")
    told = load_config("local", None, [f"policy.model={model}", "rollout.prompt.format=action"])
    assert check_model(told) == str(model), "nothing is played"
    with pytest.raises(UserError, match=said):
        check_model(told, ["alfworld"])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (ONE_TURN, r"does not render a conversation of user and assistant \(One turn only\)"),
        ("{% for message in messages %}", "tokenizer of .* cannot be used .*Unexpected end of template"),
    ],
)
def test_a_template_that_renders_no_conversation(model, template, said):
    (model / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=said):
        check(model)


def test_a_torn_tokenizer_is_one_line(model):
    (model / "tokenizer.json").write_text('{"version": "1.0", ')
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be used \("):
        check(model)


@pytest.mark.real
def test_the_widths_of_heads_are_those_of_the_engine_s_kernels():
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    from actors.engine_limits import CPU_HEAD_SIZES

    assert list(CPU_HEAD_SIZES) == CPUAttentionBackend.get_supported_head_sizes()


def test_a_model_with_merged_adapters_is_said_to_lose_them_in_bfloat16(model: Path) -> None:
    assert rounding(str(model), "bfloat16") is None, "no adapters were merged into it"
    (model / "adapter").mkdir()
    (model / "adapter" / "adapter_config.json").write_text("{}")
    assert rounding(str(model), "float32") is None
    line = rounding(str(model), "bfloat16")
    assert line is not None and line.endswith("set policy.dtype=float32") and "\n" not in line
