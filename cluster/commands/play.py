"""`concerto play`: a person plays a task in the terminal."""

from __future__ import annotations

from rich.console import Console

from cluster.config.run import RunSettings
from envs import make_environment

HELP = "Type an action, `?` for what is possible here, or nothing to leave."


def play_task(config: RunSettings, environment: str, task_id: str, console: Console) -> None:
    """Play one task in the terminal, to its end or until an empty line. Raises UserError for an unknown task."""
    player = make_environment(environment, *config.opening(environment))
    observation = player.reset(task_id)
    console.print(observation.text, highlight=False, markup=False)
    console.print(f"\n[dim]{HELP}[/dim]", highlight=False)
    turns, total = 0, 0.0
    while True:
        try:
            action = console.input("[bold]> [/bold]").strip()
        except EOFError:
            action = ""
        if not action:
            break
        if action == "?":
            search = ("search[words]",) if observation.can_search else ()
            console.print("\n".join((*search, *observation.admissible_actions)), highlight=False, markup=False)
            continue
        step = player.step(action)
        turns, total, observation = turns + 1, total + step.rewards["success"], step.observation
        console.print(observation.text, highlight=False, markup=False)
        if step.done:
            break
    console.print("Solved." if total >= 1.0 else "Not solved.", f"{turns} actions.", highlight=False)
    player.close()
