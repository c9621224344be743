"""The embedded base model, its tokenizer, and the players that wrote its reading matter."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from envs import load_panel, make_environment
from learners.tiny import embedded_model_path
from learners.tiny.build import build_model
from learners.tiny.corpus import FIRST_SEED, PLAYS, play_games
from learners.tiny.play import play
from learners.tiny.players import Browser, RandomPlayer, Wanderer
from trajectories.chat import ChatTokenizer, Message

TOKENIZER = AutoTokenizer.from_pretrained(embedded_model_path())


def test_the_embedded_model_is_small_and_untied():
    weights = embedded_model_path() / "model.safetensors"
    assert weights.stat().st_size < 10e6
    model = AutoModelForCausalLM.from_pretrained(embedded_model_path())
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert 4e6 < sum(parameter.numel() for parameter in model.parameters()) < 6e6


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    chat = ChatTokenizer(TOKENIZER)
    assert chat.decode(chat.encode(text)) == text


def test_the_chat_template_only_appends():
    chat = ChatTokenizer(TOKENIZER)
    messages: list[Message] = [
        {"role": "user", "content": "You see a desk 1."},
        {"role": "assistant", "content": "go to desk 1"},
    ]
    longer: list[Message] = [*messages, {"role": "user", "content": "You arrive at desk 1."}]
    prompt = chat.encode(chat.render(messages[:1]))
    rendered = chat.encode(chat.render(longer))
    assert rendered[: len(prompt)] == prompt
    assert rendered[len(prompt) :][: len(chat.encode_response("go to desk 1"))] == chat.encode_response("go to desk 1")


def test_the_embedded_model_has_learned_to_copy_names():
    """The first place it walks to is one that the room lists."""
    chat = ChatTokenizer(TOKENIZER)
    model: Any = AutoModelForCausalLM.from_pretrained(embedded_model_path(), dtype=torch.float32)
    environment = make_environment("alfworld")
    for task_id in load_panel("alfworld/generated/train").task_ids[:5]:
        observation = environment.reset(task_id)
        prompt = chat.encode(chat.render([{"role": "user", "content": observation.text}]))
        output = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
        assert chat.action(output[0, len(prompt) :].tolist()) in observation.admissible_actions


@pytest.mark.parametrize("player", [RandomPlayer, Wanderer])
def test_players_choose_what_is_admissible(player):
    environment = make_environment("alfworld")
    task_id = load_panel("alfworld/generated/train").task_ids[0]
    transcript = play(environment, task_id, player(random.Random(0)), 20, random.Random(0))
    answers = {
        place: message["content"] for place, message in enumerate(transcript.messages) if message["role"] == "user"
    }
    refused = {place - 1 for place, answer in answers.items() if answer == "Nothing happens."}
    assert refused == transcript.slips


def test_the_browser_searches_for_words_of_the_instruction():
    environment = make_environment("webshop", data="generated")
    observation = environment.reset("2000")
    browser = Browser(random.Random(0))
    browser.reset(observation)
    query = browser.act(observation).removeprefix("search[").removesuffix("]")
    assert query and query in observation.text.replace(",", "")


def test_the_corpus_is_a_function_of_its_seed_and_shares_no_game_with_the_panels():
    first, again = list(play_games(2 * PLAYS, seed=0)), list(play_games(2 * PLAYS, seed=0))
    assert first == again != list(play_games(2 * PLAYS, seed=1))
    for split in ("train", "heldout"):
        seeds = [
            int(task_id.rpartition("trial_G")[2]) for task_id in load_panel(f"alfworld/generated/{split}").task_ids
        ]
        assert max(seeds) < FIRST_SEED


def test_building_is_deterministic():
    models = [build_model(TOKENIZER, seed=3).state_dict() for _ in range(2)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
