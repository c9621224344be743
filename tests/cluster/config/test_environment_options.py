"""Options of environments and chat templates on their way from a run's settings to what plays."""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from actors.environment_host import EnvironmentHost
from cluster.config.loading import load_config
from cluster.inputs.demonstrations import ExpertPlay, Transcriber, load_demonstrations
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.inputs.recorded import import_demonstrations
from cluster.inputs.run_plan import plan_run
from cluster.loop.tasks import TaskMixture
from cluster.reporting.evaluation import Sampling, Subject, evaluate_panel, read_evaluations, write_evaluations
from envs import load_panel, make_environment, training_panel
from envs.webshop.settings import WebShopSettings
from tests.cluster.simulation import SimulatedRollouts
from tests.envs.test_recordings import shop_record
from trajectories.builder import PromptSettings
from trajectories.errors import UserError

RICH = "environments.webshop.observation_mode=text_rich"
SHOP = ["tasks=webshop", "data.webshop=generated", "schedule.sft_steps=1", "schedule.grpo_steps=0"]


def shop(*more: str):
    return load_config("local", None, [*SHOP, *more])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("environments.webshop.observation_mode=html", "does not fit: input should be 'text' or 'text_rich'"),
        ("environments.webshop.human_goals=perhaps", "environments.webshop.human_goals='perhaps' does not fit"),
        ("environments.alfworld.engine=fast", "input should be 'native' or 'textworld'"),
        ("environments.alfworld.egine=native", "Did you mean 'environments.alfworld.engine'?"),
        ("environments.alfwrld.engine=native", "Did you mean 'environments.alfworld.engine'?"),
        ("rollout.prompt.chat_template_kwargs=off", "should be a valid dictionary"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_fix(override, message):
    with pytest.raises(UserError) as error:
        load_config("local", None, [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_opens_an_environment_with_its_options():
    assert shop(RICH).opening("webshop/dev") == ("generated", WebShopSettings(observation_mode="text_rich"))
    assert shop(RICH).opening("questions") == (None, None)


def test_a_run_trains_and_evaluates_the_tasks_that_its_options_make(tmp_path):
    plain, rich = (plan_run(shop(*more), tmp_path, resume=False) for more in ((), (RICH,)))
    assert plain.manifest.panels["webshop/train"] != rich.manifest.panels["webshop/train"]
    assert [panel.options for panel in rich.eval_panels] == [{"observation_mode": "text_rich"}]


def test_human_goals_that_the_data_lack_end_a_run_before_it_starts(tmp_path):
    with pytest.raises(UserError, match="the generated catalogue has no human goals"):
        plan_run(shop("environments.webshop.human_goals=true"), tmp_path, resume=False)


def test_an_engine_that_is_not_installed_ends_a_run_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "textworld", None)
    monkeypatch.delitem(sys.modules, "envs.alfworld.textworld_engine", raising=False)
    with pytest.raises(UserError, match="textworld"):
        plan_run(load_config("local", None, ["environments.alfworld.engine=textworld"]), tmp_path, resume=False)


def test_the_hosts_play_what_the_options_say():
    host = EnvironmentHost({"webshop": partial(make_environment, "webshop", *shop(RICH).opening("webshop"))})
    assert "[button]" in host.reset(("slot", "webshop"), "0", 0).text


def test_experts_show_what_the_options_say(tmp_path):
    tasks = TaskMixture((training_panel("webshop", *shop(RICH).opening("webshop")),))
    tokenizer = load_tokenizer(resolve_model(TINY))
    play = ExpertPlay(tasks, shop(RICH).opening, count=1, max_turns=30, seed=0)
    table = load_demonstrations(tmp_path, play, Transcriber(tokenizer, PromptSettings(), 4096), lambda *_: None)
    assert "[button]" in tokenizer.decode(table["token_ids"][0].as_py())


def test_recordings_are_replayed_as_the_options_say(tmp_path, roomy_model_dir):
    roomy = (f"policy.model={roomy_model_dir}", "rollout.engine.max_model_len=8192")
    (tmp_path / "shop.jsonl").write_text(json.dumps(shop_record("1500")))
    out = tmp_path / "out.parquet"
    settings = shop(RICH, *roomy)
    import_demonstrations(settings, "webshop", tmp_path / "shop.jsonl", out, Console(quiet=True))
    tokens = pq.read_table(out)["token_ids"][0].as_py()
    assert "[button]" in load_tokenizer(resolve_model(TINY)).decode(tokens)
    with pytest.raises(UserError, match=r"made with other options of webshop: import .* this run's environments\.webs"):
        plan_run(shop(f"schedule.demonstrations_file={out}"), tmp_path / "plain", resume=False)
    assert plan_run(shop(RICH, *roomy, f"schedule.demonstrations_file={out}"), tmp_path / "rich", False)


def test_an_evaluation_file_tells_the_options(tmp_path):
    panel = load_panel("webshop/dev", *shop(RICH).opening("webshop"))
    result = asyncio.run(evaluate_panel(SimulatedRollouts(), panel, Sampling(), Subject("m"), limit=2))
    write_evaluations(tmp_path / "eval.json", (result,))
    assert read_evaluations(tmp_path / "eval.json")[0].options == {"observation_mode": "text_rich"}


def test_what_a_chat_template_does_not_read_is_refused():
    model = resolve_model(TINY)
    prompt = load_config("local", None, ["rollout.prompt.chat_template_kwargs={enable_thinking: false}"]).rollout.prompt
    with pytest.raises(UserError, match=r"does not read 'enable_thinking': look .* rollout\.prompt\.chat_template_kw"):
        load_tokenizer(model, prompt)
    with pytest.raises(UserError, match="cannot set 'add_generation_prompt': leave it out"):
        load_tokenizer(model, PromptSettings(chat_template_kwargs={"add_generation_prompt": False}))
