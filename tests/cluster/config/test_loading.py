"""Configuration: merging, typing, and errors that name the fix in one line."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.loading import PRESETS, check_config, keys, load_config, merge
from envs import ENVIRONMENTS
from trajectories.errors import UserError


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset):
    assert load_config(preset).model_dump(mode="json")


def test_overrides_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {lr: 2.0e-5, warmup_steps: 3}\nschedule: {grpo_steps: 7}\n")
    config = load_config("local", file, ["learner.lr=1e-5", "evaluation.panels=[]", "policy.lora.rank=8"])
    assert config.learner.lr == 1e-5
    assert config.learner.warmup_steps == 3
    assert config.schedule.grpo_steps == 7
    assert config.evaluation.panels == ()
    assert config.policy.lora and config.policy.lora.rank == 8


def test_a_saved_configuration_loads_back(tmp_path):
    config = load_config("gpu", None, ["policy.lora.rank=8", "seed=5"])
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config("local", file) == config


def test_merge_changes_neither_side():
    base = {"a": {"x": 1}}
    assert merge(base, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
    assert base == {"a": {"x": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lrr=1", "unknown key 'learner.lrr' in the configuration. Did you mean 'learner.lr'?"),
        ("lr=1", "unknown key 'lr' in the configuration. Did you mean 'learner.lr'?"),
        ("optimiser.lr=1", "unknown key 'optimiser' in the configuration. Known here: seed"),
        ("learner.lr=fast", "learner.lr='fast' does not fit: input should be a valid number"),
        ("learner.lr=-1", "learner.lr=-1 does not fit: input should be greater than 0"),
        ("schedule.grpo_steps=1.5", "schedule.grpo_steps=1.5 does not fit"),
        ("tasks=[]", "tasks=[] does not fit"),
        ("tasks=[webshop,webshop]", "can be named once"),
        ("tasks=wbshop", "unknown environment 'wbshop': choose one of alfworld, questions, webshop. Did you mean"),
        ("learner=3", "learner is a section: set its keys one by one, e.g. --set learner.lr=VALUE."),
        ("learner.lr", "--set learner.lr is no assignment"),
        ("schedule.min_group=9", "schedule: min_group 9 is more than group_size 8"),
        ("rollout.max_response_tokens=2048", "rollout: max_response_tokens 2048 leaves no room for a prompt"),
        (
            "placement.rollout_gpus=1.5",
            "placement.rollout_gpus=1.5 does not fit: take a share of one GPU, up to 1, or a whole number, as 1 or 2.",
        ),
        ("placement.rollout_gpus=-1", "placement.rollout_gpus=-1 does not fit: input should be greater than or equal"),
        ("rollout.engine.tensor_parallel=0", "rollout.engine.tensor_parallel=0 does not fit"),
        ("grpo.icepop_band=[2,3]", "grpo: icepop_band must be (low <= 1, high >= 1)"),
        ("schedule.temperature=warm", "schedule.temperature.start='warm' does not fit: input should be a valid number"),
        ("schedule.temperature=0", "temperature.start=0 does not fit: input should be greater than or equal to 0.01"),
        ("schedule.temperature.end=0.005", "end=0.005 does not fit: input should be greater than or equal to 0.01"),
        ("schedule.temperature=2.5", "temperature.start=2.5 does not fit: input should be less than or equal to 2"),
        ("schedule.temperature=nan", "schedule.temperature.start='nan' does not fit"),
        ("schedule.temperature=[1,2]", "schedule.temperature is a section: set its keys one by one"),
        ("schedule.max_skipped=0", "schedule.max_skipped=0 does not fit: input should be greater than 0"),
        ("schedule.demonstrations_kind=slip", "schedule.demonstrations_kind='slip' does not fit: input should be"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_fix(override, message):
    with pytest.raises(UserError) as error:
        load_config("local", None, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_recorded_demonstrations_have_no_slips():
    overrides = ["schedule.demonstrations_kind=slips", "schedule.demonstrations_file=demos.parquet"]
    with pytest.raises(UserError, match=r"demonstrations_file replaces that: leave one of them out"):
        load_config("local", None, overrides)


@pytest.mark.parametrize("text", ["Answer: one action", "no", "", "# hash", "2024", "off", "null", "[a", '"q"', "a=b"])
def test_a_text_is_taken_as_it_stands(text):
    config = load_config(
        "local", None, [f"rollout.prompt.system={text}", f"data.webshop={text}", f"policy.model={text}"]
    )
    assert (config.rollout.prompt.system, config.data["webshop"], config.policy.model) == (text, text, text)


@settings(deadline=None, max_examples=30)
@given(st.text())
def test_no_text_is_refused(text):
    assert load_config("local", None, [f"rollout.prompt.system={text}"]).rollout.prompt.system == text


@pytest.mark.parametrize(("text", "value"), [("null", None), ("", None), ("no", "no"), ("1: 2", "1: 2")])
def test_a_text_that_may_be_missing_is_null_or_as_it_stands(text, value):
    assert load_config("local", None, [f"schedule.demonstrations_file={text}"]).schedule.demonstrations_file == value


def test_lists_and_mappings_of_texts_hold_texts():
    overrides = ["evaluation.panels=[webshop/no,2024]", "data={webshop: 2024}", "reward.channels=[success]"]
    config = load_config("local", None, overrides)
    assert (config.evaluation.panels, config.data) == (("webshop/no", "2024"), {"webshop": "2024"})
    assert config.reward.channels == ("success",)
    assert load_config("local", None, ["evaluation.panels=null"]).evaluation.panels is None


def test_what_is_no_text_is_yaml():
    overrides = ["schedule.dynamic_sampling=yes", "evaluation.limit=null", "reward.weights.success=2"]
    overrides += ["rollout.prompt.chat_template_kwargs.enable_thinking=false"]
    config = load_config("local", None, overrides)
    assert config.schedule.dynamic_sampling is True and config.evaluation.limit is None
    assert config.rollout.prompt.chat_template_kwargs == {"enable_thinking": False}
    assert config.reward.weights == {"success": 2.0}


def test_a_choice_that_is_wrong_is_named_as_it_was_written():
    with pytest.raises(UserError, match=r"^router\.policy='off' does not fit: input should be 'none', 'median_split'"):
        load_config("local", None, ["router.policy=off"])


def test_a_file_that_lacks_quotes_says_so(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("rollout: {prompt: {system: no}}\n")
    with pytest.raises(UserError, match=r"^rollout\.prompt\.system=False does not fit: .* put it in quotes\.$"):
        load_config("local", file)
    file.write_text("rollout: {prompt: {system: 'no'}}\n")
    assert load_config("local", file).rollout.prompt.system == "no"


def test_an_advantage_that_would_have_no_say_is_refused():
    with pytest.raises(
        UserError, match=r"^reward\.scalariser=gdpo .* grpo\.advantage=rloo would have no say: leave it at grpo"
    ):
        load_config("local", None, ["reward.scalariser=gdpo", "grpo.advantage=rloo"])
    for advantage in ("grpo", "graph"):
        load_config("local", None, ["reward.scalariser=gdpo", f"grpo.advantage={advantage}"])


def test_the_conductor_reads_episodes_that_were_cut_off_too():
    load_config("local", None, ["reward.scalariser=uniform", "grpo.truncated=mask"])
    with pytest.raises(UserError, match=r"^grpo\.truncated=mask leaves episodes out .*: leave it at train\.$"):
        load_config("local", None, ["reward.scalariser=conductor", "grpo.truncated=mask"])


@pytest.mark.parametrize(
    ("overrides", "by_step"),
    [
        ([], [1.0, 1.0, 1.0]),
        (["schedule.temperature=0.8"], [0.8, 0.8, 0.8]),
        (["schedule.temperature=1e-1"], [0.1, 0.1, 0.1]),
        (["schedule.temperature.end=0.8", "schedule.temperature.steps=2"], [1.0, 0.9, 0.8]),
        (["schedule.temperature={start: 1.2, end: 0.8, steps: 2}"], [1.2, 1.0, 0.8]),
        (["schedule.temperature={start: 1.2, end: 0.8, steps: 2}", "schedule.temperature=1"], [1.0, 1.0, 1.0]),
    ],
)
def test_the_temperature_is_a_number_or_a_ramp(tmp_path, overrides, by_step):
    config = load_config("local", None, overrides)
    assert [config.schedule.temperature.at(step) for step in range(3)] == pytest.approx(by_step)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config("local", file) == config


def test_a_plain_temperature_in_a_file_goes_on_working(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("schedule: {temperature: 0.7}\n")
    assert load_config("local", file).schedule.temperature.at(5) == 0.7


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(
        UserError,
        match=r"unknown preset 'locl': choose one of local, inline, instruct, gpu, cluster\. Did you mean 'local'\?",
    ):
        load_config("locl")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read --config"), ("a: [1", "is no YAML"), ("- 1", "must hold sections")]
)
def test_a_bad_file_is_named(tmp_path, content, message):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_config("local", file)


def test_every_key_is_listed_once():
    listed = list(keys())
    assert {"seed", "learner.lr", "policy.lora.rank", "schedule.max_staleness"} <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("override", "tasks"),
    [
        ("seed=0", ("alfworld",)),
        ("tasks=webshop", ("webshop",)),
        ("tasks=[alfworld,webshop]", ("alfworld", "webshop")),
        ("tasks=[alfworld/train]", ("alfworld/train",)),
    ],
)
def test_tasks_are_environments_or_panels(override, tasks):
    assert load_config("local", None, [override]).tasks == tasks


def test_every_environment_can_be_trained_on():
    assert load_config("local", None, [f"tasks=[{','.join(ENVIRONMENTS)}]"]).tasks == tuple(ENVIRONMENTS)


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        check_config({}).seed = 1


def test_experience_and_a_program_do_not_go_together() -> None:
    with pytest.raises(UserError, match=r"experience would be told to nobody: leave experience.enabled at false"):
        load_config("local", None, ["experience.enabled=true", "rollout.program.command=[python,agent.py]"])
    assert load_config("local", None, ["rollout.program.command=[python,agent.py]"]).rollout.program.command == (
        "python",
        "agent.py",
    )
