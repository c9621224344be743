"""Turns at which models are asked what they would do next: recorded, and the same for every model.

Fresh ALFWorld games and shop sessions with new product codes, early, late, and directly after slips that were put in.
Players and kinds of games are those of the base model's corpus; games and codes are not, and panels never enter.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

from benchmarks.naming import Counts, is_accepted, judge_move, judge_shopping, shop_page
from envs import load_panel
from envs.alfworld.environment import AlfworldEnvironment
from envs.alfworld.library import GameLibrary
from envs.base import Environment, Observation
from envs.slips import Slips
from envs.webshop.environment import WebShopEnvironment
from learners.tiny.corpus import FreshGames, make_player
from learners.tiny.play import Transcript
from learners.tiny.players import Browser, Player
from learners.tiny.shopping import INSTRUCTION, redraw_codes
from trajectories.chat import Message

FIRST_GAME = 900_000_000
"""Seed of the first game; pre-training reads those from 500,000,000 on, a few ten thousand a seed."""
GAMES_A_SEED = 100_000
LONGEST_TEXT = 5_500
"""Characters of a prompt: with some 3.3 of them a token, most of the embedded model's 2,048."""
A_PLACE = 2
"""Positions that one episode gives to one place at most."""
MOST_EPISODES = 5
"""Episodes a position, at most."""
MOST_SLIPS = 3
GAME_PLACES = ("game, turns 0-9", "game, turns 20 on", "game, 1 slip", "game, 2 slips", "game, 3 slips")
SHOP_PLACES = ("search page", "result page", "product page", "shop, 1 slip", "shop, 2 slips", "shop, 3 slips")


@dataclass(frozen=True)
class Position:
    """A turn of the player.

    Attributes:
        place: which row of the table it counts for.
        messages: the transcript up to here; the last one is the environment's.
        admissible: what the environment listed here.
        judge: what to make of an action here.
    """

    place: str
    messages: tuple[Message, ...]
    admissible: tuple[str, ...]
    judge: Callable[[Position, str], Counts]


def in_game(position: Position, action: str) -> Counts:
    """Judge a move by what the environment said; the player's own words, mistakes among them, prove nothing."""
    told = "\n".join(message["content"] for message in position.messages if message["role"] == "user")
    return judge_move(action, told, position.admissible)


def in_shop(position: Position, action: str) -> Counts:
    """Judge an action by the page that is shown and the instruction."""
    instruction = INSTRUCTION.search(position.messages[0]["content"])
    assert instruction is not None
    return judge_shopping(action, instruction[0], position.messages[-1]["content"], position.admissible)


def game_place(turn: int, slips: int, page: str) -> str:
    """The row of a game's position; "" if it counts for none."""
    del page
    if slips:
        return GAME_PLACES[1 + slips]
    if turn < 10:
        return GAME_PLACES[0]
    return GAME_PLACES[1] if turn >= 20 else ""


def shop_place(turn: int, slips: int, page: str) -> str:
    """The row of a shop's position; "" if it counts for none."""
    del turn
    shown = shop_page(page)
    return SHOP_PLACES[2 + slips] if shown and slips else shown


@dataclass(frozen=True)
class World:
    """An environment and who plays there.

    Attributes:
        turns: of an episode, at most.
        begin: the task and the player of an episode, by its number.
        place: which place a position is of: turn, slips just before it, and page → place, or "".
    """

    environment: Environment
    places: tuple[str, ...]
    turns: int
    begin: Callable[[int, random.Random], tuple[str, Player]]
    place: Callable[[int, int, str], str]
    judge: Callable[[Position, str], Counts]


def open_games(seed: int) -> World:
    """Fresh ALFWorld games."""

    def begin(number: int, rng: random.Random) -> tuple[str, Player]:
        task_id = str(FIRST_GAME + seed * GAMES_A_SEED + number)
        return task_id, make_player(rng.choice(("wanderer", "random", "expert")), rng)

    return World(AlfworldEnvironment(GameLibrary([FreshGames()])), GAME_PLACES, 60, begin, game_place, in_game)


def open_shop() -> World:
    """Training goals of the generated catalogue."""
    environment = WebShopEnvironment("generated")
    goals = load_panel("webshop/train", data="generated").task_ids

    def begin(number: int, rng: random.Random) -> tuple[str, Player]:
        player = Browser(rng) if number % 2 else environment.expert(rng.randrange(2**31))
        return rng.choice(goals), player

    return World(environment, SHOP_PLACES, 8, begin, shop_place, in_shop)


def record(count: int, seed: int) -> list[Position]:
    """`count` positions of every place; the same for the same arguments."""
    games, shop = random.Random(f"copying games {seed}"), random.Random(f"copying shop {seed}")
    bought = collect(open_shop(), count, shop)
    return collect(open_games(seed), count, games) + [with_new_codes(position, shop) for position in bought]


def collect(world: World, count: int, rng: random.Random) -> list[Position]:
    """Play until every place has `count` positions, place by place; an episode gives `A_PLACE` to one at most."""
    found: dict[str, list[Position]] = {place: [] for place in world.places}
    for number in range(MOST_EPISODES * count):
        offered: dict[str, list[Position]] = defaultdict(list)
        for position in play_with_slips(world, number, rng):
            offered[position.place].append(position)
        for place, positions in found.items():
            wanted = min(A_PLACE, count - len(positions), len(offered[place]))
            positions += rng.sample(offered[place], wanted)
        if all(len(positions) == count for positions in found.values()):
            break
    return list(chain.from_iterable(found.values()))


def play_with_slips(world: World, number: int, rng: random.Random) -> Iterator[Position]:
    """Positions of one episode, each as it was played, and with one to `MOST_SLIPS` slips put in before it.

    Slips change nothing, so that play goes on as if there had been none.
    """
    slips = Slips(rng, rate=1.0, again=1.0)
    task_id, player = world.begin(number, rng)
    observation = world.environment.reset(task_id)
    player.reset(observation)
    played = [_message("user", observation.text)]
    for turn in range(world.turns):
        yield from _slip(world, turn, played, observation, slips)
        action = player.act(observation)
        step = world.environment.step(action)
        observation = step.observation
        played += [_message("assistant", action), _message("user", observation.text)]
        if step.done:
            break


def _slip(world: World, turn: int, played: list[Message], observation: Observation, slips: Slips) -> Iterator[Position]:
    messages = list(played)
    for count in range(MOST_SLIPS + 1):
        if count:
            slip = slips.draw(observation) or slips.draw(observation)  # it pauses once after its longest run
            if slip is None or is_accepted(slip, ()):  # a near miss that became a search
                return
            answer = world.environment.step(slip).observation.text
            messages += [_message("assistant", slip), _message("user", answer)]
        place = world.place(turn, count, observation.text)
        if place and sum(len(message["content"]) for message in messages) <= LONGEST_TEXT:
            yield Position(place, tuple(messages), observation.admissible_actions, world.judge)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def with_new_codes(position: Position, rng: random.Random) -> Position:
    """The same with product codes that nobody has seen, in what is listed as admissible too."""
    listed = _message("user", "\n".join(position.admissible))
    *messages, listed = redraw_codes(Transcript([*position.messages, listed]), rng).messages
    return replace(position, messages=tuple(messages), admissible=tuple(listed["content"].splitlines()))
