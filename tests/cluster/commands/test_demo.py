"""The demo's WebShop part leaves evaluated goals alone and is short; at the end stands what RL gained."""

from cluster.commands.demo import SHOPPING, gains
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from tests.cluster.reporting.samples import evaluation


def test_the_webshop_part_trains_on_training_goals_of_the_generated_shop(tmp_path):
    config = load_config("local", overrides=SHOPPING)
    plan = plan_run(config, tmp_path, resume=False)
    (train,), (heldout,) = plan.tasks.panels, plan.eval_panels
    assert (train.name, heldout.name) == ("webshop/train", "webshop/dev")
    assert not set(train.task_ids) & set(heldout.task_ids)
    assert config.data == {"webshop": "generated"}, "the same whatever is installed"
    assert [stage.name for stage in config.schedule.stages(1, 1)] == ["sft"]
    assert config.schedule.sft_steps * config.schedule.sft_batch == config.schedule.demonstrations


def test_the_gain_of_rl_is_told_with_whether_chance_explains_it():
    before, after = [False, True, True] * 20, [True, True, False] * 20
    weak, strong = evaluation(before, [1, 2, 0] * 20), evaluation(after, [3, 3, 2] * 20)
    (gained,) = gains({"base": (weak,), "after_sft": (weak,), "after_grpo": (strong,)})
    assert " by +0." in gained and ", more than chance explains; greedy play won 20 games and lost 20." in gained
    (same,) = gains({"after_sft": (strong,), "after_grpo": (strong,)})
    assert ", no more than chance explains; greedy play won 0 games and lost 0." in same
    assert gains({"base": (weak,), "after_sft": (strong,)}) == []
