"""The base model's reading matter: what players that ignore the task leave behind in ALFWorld and WebShop, and drills.

In three quarters of the ALFWorld games they wander or act at random. A fifth are the expert's games shown under another
game's task sentence: they hold every skill (search, take, heat, deliver) but not what a task sentence is good for; that
is left to SFT. A few per cent are honest. In WebShop, where an instruction is words to search for and options to find,
two fifths of the sessions are honest: were it rarely true, they would teach not to copy from it. All players slip now
and then and play on; slips are read, but not learned. Panels of the embedded packs never enter: the games have seeds of
their own, the goals are training goals, no question is one that a panel asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache as cache_calls
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from envs.alfworld.environment import AlfworldEnvironment
from envs.alfworld.explorer import Explorer
from envs.alfworld.games import TASK_TYPES, Game
from envs.alfworld.generate import MEDIUM, SMALL, TINY, generate_game
from envs.alfworld.library import GameLibrary
from learners.tiny.build import train_tokenizer
from learners.tiny.drills import draw_drill
from learners.tiny.play import Transcript, play
from learners.tiny.players import Player, RandomPlayer, Wanderer
from learners.tiny.shopping import go_shopping
from trajectories.chat import ChatTokenizer
from trajectories.files import written_aside

FIRST_SEED = 500_000_000
"""Far above the seeds of the embedded pack."""
PLAYS = 3
"""Transcripts a game: reading a game file takes longer than playing it."""
SIZES = (TINY, SMALL, SMALL, MEDIUM)
SHARES = {"wanderer": 0.5, "random": 0.20, "misled expert": 0.27, "expert": 0.03}
TURNS = {"wanderer": (8, 60), "random": (5, 50), "misled expert": (50, 50), "expert": (50, 50)}
TOKENIZER_DOCUMENTS = 6_000
TASK = "Your task is to: "


@dataclass(frozen=True, slots=True)
class Volumes:
    """How much is read of what: ALFWorld transcripts, WebShop sessions, drills."""

    games: int = 24_000
    sessions: int = 9_000
    drills: int = 60_000


@dataclass(frozen=True)
class Corpus:
    """Token ids of all transcripts, end to end, which of them are learned, and where each transcript ends."""

    tokenizer: PreTrainedTokenizerFast
    tokens: npt.NDArray[np.int16]
    learned: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    def length(self, index: int) -> int:
        """Tokens of transcript `index`."""
        return int(self.ends[index] - (self.ends[index - 1] if index else 0))

    def read(self, index: int, length: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        """The first `length` tokens of transcript `index`, and which of them are learned."""
        start = int(self.ends[index - 1]) if index else 0
        return self.tokens[start : start + length], self.learned[start : start + length]


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


def build_corpus(volumes: Volumes, seed: int, cache: Path) -> Corpus:
    """Play, write and tokenise, or read it back from `cache`."""
    folder = cache / f"{volumes.games}-{volumes.sessions}-{volumes.drills}-{seed}"
    if not folder.exists():
        rng = random.Random(f"drills {seed}")
        transcripts = [
            *play_games(volumes.games, seed),
            *go_shopping(volumes.sessions, seed),
            *(Transcript(draw_drill(rng)) for _ in range(volumes.drills)),
        ]
        sample = random.Random(seed).sample(transcripts, min(TOKENIZER_DOCUMENTS, len(transcripts)))
        tokenizer = train_tokenizer(message["content"] for transcript in sample for message in transcript.messages)
        encode = cache_calls(partial(_encode_message, ChatTokenizer(tokenizer)))
        encoded = [_encode(encode, transcript) for transcript in transcripts]
        with written_aside(folder) as aside:
            aside.mkdir(parents=True)
            tokenizer.save_pretrained(aside)
            np.save(aside / "tokens.npy", np.concatenate([tokens for tokens, _ in encoded]))
            np.save(aside / "learned.npy", np.concatenate([learned for _, learned in encoded]))
            np.save(aside / "ends.npy", np.cumsum([len(tokens) for tokens, _ in encoded]))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Corpus(tokenizer, *(np.load(folder / f"{name}.npy") for name in ("tokens", "learned", "ends")))


def _encode_message(chat: ChatTokenizer, role: str, content: str) -> list[int]:
    """The template only joins messages, so that they can be encoded one by one."""
    return chat.encode(chat.render([{"role": role, "content": content}], generation_prompt=False))


def _encode(
    encode: Callable[[str, str], list[int]], transcript: Transcript
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """Token ids and which are learned."""
    pieces = [encode(message["role"], message["content"]) for message in transcript.messages]
    learned = [np.full(len(piece), index not in transcript.slips) for index, piece in enumerate(pieces)]
    return np.concatenate([np.asarray(piece, np.int16) for piece in pieces]), np.concatenate(learned)


def play_games(transcripts: int, seed: int) -> Iterator[Transcript]:
    """`PLAYS` transcripts a game; kinds of players are drawn by `SHARES`."""
    rng = random.Random(f"corpus {seed}")
    environment = AlfworldEnvironment(GameLibrary([FreshGames()]))
    other_task = "put a mug in desk."
    games = transcripts // PLAYS
    for index in range(games):
        task_id = str(FIRST_SEED + seed * games + index)
        for kind in rng.choices(list(SHARES), list(SHARES.values()), k=PLAYS):
            turns = rng.randint(*TURNS[kind])
            transcript = play(environment, task_id, make_player(kind, rng), turns, rng)
            opening, _, task = transcript.messages[0]["content"].partition(TASK)
            if kind == "misled expert":
                transcript.messages[0]["content"] = opening + TASK + other_task
            yield transcript
        other_task = task


def make_player(kind: str, rng: random.Random) -> Player:
    """The player of one game."""
    if kind == "wanderer":
        return Wanderer(rng)
    if kind == "random":
        return RandomPlayer(rng)
    return Explorer(seed=rng.randrange(2**31), wander=rng.choice((0.0, 0.1, 0.3)))
