"""An agent program that knows nothing of Concerto: it plays a text game with the plain `openai` client.

Alone it plays a game of ALFWorld by any OpenAI-compatible endpoint, which OPENAI_BASE_URL and OPENAI_API_KEY name:

    OPENAI_MODEL=my-model python -m examples.openai_agent

Unchanged it is trained; the two variables then lead to the run's gateway, and CONCERTO_ENVIRONMENT_URL to the game that
the run wants played (docs/bring-your-own.md):

    concerto train --set rollout.program.command=[python,-m,examples.openai_agent] --out runs/agent
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.request import Request, urlopen

import openai

MAX_TURNS = 20


class GameOfTheRun:
    """The game that a run wants played: one address, which shows it and takes actions."""

    def __init__(self, url: str) -> None:
        self._url = url

    def look(self) -> dict[str, Any]:
        return self._asked(None)

    def act(self, action: str) -> dict[str, Any]:
        return self._asked(json.dumps({"action": action}).encode())

    def _asked(self, body: bytes | None) -> dict[str, Any]:
        with urlopen(Request(self._url, body, {"Content-Type": "application/json"})) as answer:
            return json.load(answer)


class GameOfItsOwn:
    """A game in this process."""

    def __init__(self) -> None:
        from envs import heldout_panel, make_environment

        self._environment = make_environment("alfworld")
        self._first = self._environment.reset(heldout_panel("alfworld").task_ids[0])

    def look(self) -> dict[str, Any]:
        return {"observation": self._first.text, "done": False}

    def act(self, action: str) -> dict[str, Any]:
        step = self._environment.step(action)
        return {"observation": step.observation.text, "done": step.done}


def main() -> None:
    url = os.environ.get("CONCERTO_ENVIRONMENT_URL")
    game = GameOfTheRun(url) if url else GameOfItsOwn()
    client, model = openai.OpenAI(), os.environ.get("OPENAI_MODEL", "policy")
    seen = game.look()
    messages: list[Any] = [{"role": "user", "content": seen["observation"]}]
    for _ in range(MAX_TURNS):
        said = client.chat.completions.create(model=model, messages=messages).choices[0].message.content or ""
        seen = game.act(said.strip())
        print(f"> {said}\n{seen['observation']}")
        if seen["done"]:
            break
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": seen["observation"]}]


if __name__ == "__main__":
    main()
