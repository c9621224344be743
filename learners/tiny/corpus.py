"""The base model's reading matter: transcripts of games played by players that ignore the task, ALFWorld and WebShop.

In three quarters of the ALFWorld games they wander or act at random. A fifth are the expert's games shown under another
game's task sentence: they hold every skill (search, take, heat, deliver) but not what a task sentence is good for; that
is left to SFT. A few per cent are honest. WebShop sessions search for words of the instruction and click around. Panels
of the embedded packs never enter: the games have seeds of their own, the goals are training goals.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from envs import load_panel
from envs.alfworld.environment import AlfworldEnvironment
from envs.alfworld.explorer import Explorer
from envs.alfworld.games import TASK_TYPES, Game
from envs.alfworld.generate import MEDIUM, SMALL, TINY, generate_game
from envs.alfworld.library import GameLibrary
from envs.base import Environment
from envs.webshop.environment import WebShopEnvironment
from learners.tiny.build import train_tokenizer
from learners.tiny.players import Browser, Player, RandomPlayer, Wanderer
from trajectories.chat import ChatTokenizer, Message

FIRST_SEED = 500_000_000
"""Far above the seeds of the embedded pack."""
PLAYS = 3
"""Transcripts a game: reading a game file takes longer than playing it."""
SIZES = (TINY, SMALL, SMALL, MEDIUM)
SHARES = {"wanderer": 0.55, "random": 0.20, "misled expert": 0.22, "expert": 0.03}
TURNS = {"wanderer": (8, 28), "random": (5, 20), "misled expert": (50, 50), "expert": (50, 50)}
TOKENIZER_DOCUMENTS = 4_000
TASK = "Your task is to: "


@dataclass(frozen=True)
class Corpus:
    """Token ids of all transcripts, end to end; transcript i is `corpus[i]`, int32 [length]."""

    tokenizer: PreTrainedTokenizerFast
    tokens: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        start = self.ends[index - 1] if index else 0
        return self.tokens[start : self.ends[index]]


class FreshGames:
    """A game source without end: the task id is the seed of the game."""

    def splits(self) -> tuple[str, ...]:
        return ()

    def task_ids(self, split: str) -> tuple[str, ...]:
        return ()

    def why_empty(self, *splits: str) -> str:
        return "these games are in no split; read them by their seed"

    def read(self, task_id: str) -> Game:
        seed = int(task_id)
        size = SIZES[seed // len(TASK_TYPES) % len(SIZES)]
        return generate_game(seed, size=size, task_type=TASK_TYPES[seed % len(TASK_TYPES)])


def build_corpus(episodes: int, shopping: int, seed: int, cache: Path) -> Corpus:
    """Play and tokenise `episodes` ALFWorld games and `shopping` WebShop sessions, or read them back from `cache`."""
    folder = cache / f"{episodes}-{shopping}-{seed}"
    if not (folder / "ends.npy").exists():
        transcripts = [*play_games(episodes, seed), *go_shopping(shopping, seed)]
        sample = random.Random(seed).sample(transcripts, min(TOKENIZER_DOCUMENTS, len(transcripts)))
        tokenizer = train_tokenizer(message["content"] for transcript in sample for message in transcript)
        chat = ChatTokenizer(tokenizer)
        encoded = [np.asarray(chat.encode(chat.render(t, generation_prompt=False)), np.int32) for t in transcripts]
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        np.save(folder / "tokens.npy", np.concatenate(encoded))
        np.save(folder / "ends.npy", np.cumsum([len(tokens) for tokens in encoded]))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Corpus(tokenizer, np.load(folder / "tokens.npy"), np.load(folder / "ends.npy"))


def play_games(episodes: int, seed: int) -> Iterator[list[Message]]:
    """`PLAYS` transcripts a game; kinds of players are drawn by `SHARES`."""
    rng = random.Random(f"corpus {seed}")
    environment = AlfworldEnvironment(GameLibrary([FreshGames()]))
    other_task = "put a mug in desk."
    games = episodes // PLAYS
    for index in range(games):
        task_id = str(FIRST_SEED + seed * games + index)
        for kind in rng.choices(list(SHARES), list(SHARES.values()), k=PLAYS):
            turns = rng.randint(*TURNS[kind])
            transcript = play(environment, task_id, make_player(kind, rng), turns)
            opening, _, task = transcript[0]["content"].partition(TASK)
            if kind == "misled expert":
                transcript[0]["content"] = opening + TASK + other_task
            yield transcript
        other_task = task


def go_shopping(episodes: int, seed: int) -> Iterator[list[Message]]:
    """Aimless sessions on training goals of the embedded catalogue."""
    rng = random.Random(f"shopping {seed}")
    environment = WebShopEnvironment()
    for task_id in rng.sample(load_panel("webshop/train").task_ids, episodes):
        yield play(environment, task_id, Browser(rng), max_turns=rng.randint(3, 8))


def make_player(kind: str, rng: random.Random) -> Player:
    """The player of one game."""
    if kind == "wanderer":
        return Wanderer(rng)
    if kind == "random":
        return RandomPlayer(rng)
    return Explorer(seed=rng.randrange(2**31), wander=rng.choice((0.0, 0.1, 0.3)))


def play(environment: Environment, task_id: str, player: Player, max_turns: int) -> list[Message]:
    """Play until the task is solved or the turns are used; user and assistant in turn, an observation last."""
    observation = environment.reset(task_id)
    player.reset(observation)
    messages: list[Message] = [{"role": "user", "content": observation.text}]
    for _ in range(max_turns):
        action = player.act(observation)
        step = environment.step(action)
        observation = step.observation
        messages.append({"role": "assistant", "content": action})
        messages.append({"role": "user", "content": observation.text})
        if step.done:
            break
    return messages
