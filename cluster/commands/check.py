"""`concerto check`: what a model would read first, and how its answer would be read. Starts nothing."""

from __future__ import annotations

from rich.console import Console

from actors.episode import SHORTEST_RESPONSE
from cluster.config.run import RunSettings
from cluster.inputs.model_check import check_model
from cluster.inputs.models import check_trainable, load_tokenizer
from envs import make_environment, training_panel
from envs.prompts import instructions
from trajectories.answers import FormatName, read_answer, write_answer
from trajectories.builder import make_builder
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError

THOUGHT = "I look for what the task needs."


def show_check(config: RunSettings, console: Console) -> None:
    """Print the first prompt of every environment in `tasks`, an example of an answer, and the action in it.

    Raises:
        UserError: model, data or template cannot be used, or the prompt leaves no room for an answer.
    """
    model = check_model(config, [training_panel(name, *config.opening(name)).environment for name in config.tasks])
    if config.schedule.stages(1, 1):
        check_trainable(model, config.policy)
    tokenizer = load_tokenizer(model, config.rollout.prompt)
    for name in config.tasks:
        _show_task(config, name, tokenizer, console)
    ends = ", ".join(tokenizer.decode([token]) for token in tokenizer.stop_token_ids)
    console.print(
        f"A response ends at {ends}, or after {config.rollout.max_response_tokens} tokens.",
        highlight=False,
        markup=False,
    )


def _show_task(config: RunSettings, name: str, tokenizer: ChatTokenizer, console: Console) -> None:
    prompt, panel = config.rollout.prompt, training_panel(name, *config.opening(name))
    environment, task = panel.environment, panel.task_ids[0]
    player = make_environment(environment, *config.opening(name))
    first = player.reset(task)
    player.close()
    told = instructions(environment, prompt)
    builder = make_builder(tokenizer, prompt, told)
    builder.begin(first)
    ids, context = builder.prompt().tolist(), config.rollout.engine.max_model_len
    console.print(f"[bold]{panel.name}, first prompt: {len(ids)} of {context} tokens[/bold]", highlight=False)
    console.print(tokenizer.decode(ids), highlight=False, markup=False)
    if told.system and not tokenizer.takes_system:
        console.print("[bold]The chat template takes no such system message: the user's first says it[/bold]")
    console.print("[bold]An answer, and how it is read[/bold]")
    action = next(iter(first.admissible_actions), "search[words]" if first.can_search else "an action")
    console.print(_example(prompt.format, action, builder.opened), highlight=False, markup=False)
    if context - len(ids) < SHORTEST_RESPONSE:
        raise UserError(
            f"the first prompt of {task} has {len(ids)} tokens, and rollout.engine.max_model_len={context} leaves no "
            "room for an answer: raise it, or shorten the prompt (rollout.prompt)"
        )


def _example(format: FormatName, action: str, opened: bool) -> str:
    if not format:
        return "rollout.prompt.format is empty: the whole answer is the action."
    answer = write_answer(format, action, THOUGHT, opened)
    read = read_answer(format, answer, opened=opened).action
    broken = read_answer(format, f"{THOUGHT}\nThen I act.", opened=opened).violation
    return (
        f"{answer}\n\nis the action {read!r}. An answer without one is a violation ({broken}): it earns format 0, and "
        "the environment gets an action that changes nothing."
    )
