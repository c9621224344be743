"""The demo's WebShop part is a valid run that leaves evaluated goals alone and is short."""

from cluster.commands.demo import SHOPPING
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run


def test_the_webshop_part_trains_on_training_goals_of_the_generated_shop(tmp_path):
    config = load_config("local", overrides=SHOPPING)
    plan = plan_run(config, tmp_path, resume=False)
    (train,), (heldout,) = plan.tasks.panels, plan.eval_panels
    assert (train.name, heldout.name) == ("webshop/train", "webshop/dev")
    assert not set(train.task_ids) & set(heldout.task_ids)
    assert config.data == {"webshop": "generated"}, "the same whatever is installed"
    assert [stage.name for stage in config.schedule.stages] == ["sft"]
    assert config.schedule.sft_steps * config.schedule.sft_batch == config.schedule.demonstrations
