"""Real episodes with a format: the embedded model, which answers with bare actions, on real vLLM and ALFWorld."""

from __future__ import annotations

import pytest
import pytest_asyncio

from actors.engine import EngineSettings
from actors.rollout_group import GroupRequest, RolloutParts, RolloutSettings, play_group
from envs import make_environment, training_panel
from envs.prompts import instructions
from learners.tiny import embedded_model_path
from tests.actors.scripted import LocalEnvironments
from trajectories.builder import PromptSettings, make_builder
from trajectories.chat import ChatTokenizer

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]
TURNS = 6


class HouseholdSession:
    def __init__(self) -> None:
        self._environment = make_environment("alfworld")
        self.reward_names = self._environment.reward_names

    async def reset(self, task_id: str, seed: int):
        return self._environment.reset(task_id, seed)

    async def step(self, action: str):
        return self._environment.step(action)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def play(tmp_path_factory):
    from actors.vllm_engine import VllmEngine

    settings = EngineSettings(dtype="float32", max_model_len=1024, max_num_seqs=8, cpu_kv_cache_mib=64)
    model = str(embedded_model_path())
    engine, chat = await VllmEngine.start(model, settings), ChatTokenizer.from_pretrained(model)
    nothing = tmp_path_factory.mktemp("prompts") / "nothing.jinja"  # the model was pre-trained without instructions
    nothing.write_text("")

    async def run(format: str):
        prompt = PromptSettings.model_validate({"format": format, "template": str(nothing) if format else None})
        return await play_group(
            GroupRequest("g", "alfworld", training_panel("alfworld").task_ids[0], (1, 2), 0, 1.0, "train"),
            RolloutSettings(engine=settings, max_turns=TURNS),
            RolloutParts(engine, chat, LocalEnvironments(slots=2, make=lambda lease: HouseholdSession())),
            lambda advice: make_builder(chat, prompt, instructions("alfworld", prompt)),
        )

    yield run
    await engine.close()


async def test_bare_actions_are_read_and_change_nothing_of_what_is_sampled(play):
    unset, told = await play(""), await play("action")
    for before, after in zip(unset, told, strict=True):
        assert after.episode.rewards["format"] == 1.0 and after.episode.rewards["action_validity"] > 0
        assert after.episode.rewards == before.episode.rewards
        assert [s.token_ids.tolist() for s in after.sequences] == [s.token_ids.tolist() for s in before.sequences]


async def test_answers_without_their_tags_earn_no_format_and_do_nothing(play):
    for trajectory in await play("tagged"):
        assert trajectory.episode.turns == TURNS
        assert trajectory.episode.rewards["format"] == trajectory.episode.rewards["action_validity"] == 0.0
        states = {turn.state_hash for sequence in trajectory.sequences for turn in sequence.turns}
        assert len(states) == 1, "an action that is none changes nothing"
