"""The policy's part of a checkpoint: every worker writes and reads its own shards, and none holds them all.

    DIR/policy.json                    the one manifest: format, steps, stage, number of workers
    DIR/shards/*.safetensors           weights that train and Adam's moments, by torch.distributed.checkpoint
    DIR/random-<rank>.safetensors      states of a worker's random generators

Nothing is pickled. As many workers continue bit for bit; others read what their own shards overlap with, and their
random generators start afresh. A thread writes a copy in the CPU's memory while training goes on.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from learners.policy import distributed
from learners.policy.optimizer import PolicyOptimizer
from trajectories.errors import UserError
from trajectories.files import reading
from trajectories.state_files import EARLIER

FORMAT = 2
"""1 was one file, gathered and pickled by worker 0."""
MANIFEST, SHARDS = "policy.json", "shards"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What torch's AdamW keeps of a weight."""
ALONE = "torch.distributed is disabled"
"""How torch begins to warn that there is one process, which is meant."""
FILE_BYTES = 1 << 30
"""Bytes of whole tensors that share a file; each worker holds its part of one file twice while it writes."""


class CheckpointWriter:
    """Writes checkpoints, one at a time. Every method is collective."""

    def __init__(self) -> None:
        self._writing: Any = None  # torch's future, where something was begun
        # The threads of all workers agree on what each writes; their words must not meet those of training.
        self._group: Any = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def begin(self, model: nn.Module, optimizer: PolicyOptimizer, directory: Path) -> None:
        """Copy weights that train and moments, which a thread writes, and write step count, stage and random states.
        The directory exists."""
        state = _weights(model) | _moments(model, optimizer)
        writer = HuggingFaceStorageWriter(
            str(directory / SHARDS), fqn_to_index_mapping=_files(state), save_distributed=True
        )
        warnings.filterwarnings("ignore", message=ALONE)  # for good: the thread outlives any block
        self._writing = state_dict_saver.async_save(
            state, storage_writer=writer, process_group=self._group, no_dist=self._group is None
        )
        safetensors.torch.save_file(_random_state(), directory / f"random-{distributed.rank()}.safetensors")
        if distributed.rank() == 0:
            manifest = {"format": FORMAT, "steps": optimizer.steps, "stage": optimizer.stage}
            manifest |= {"workers": distributed.world_size()}
            (directory / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    def end(self) -> None:
        """Wait until all that was begun is written. Raises what the thread ran into."""
        writing, self._writing = self._writing, None
        with _plainly():
            if writing is not None:
                writing.result()


def restore(model: nn.Module, optimizer: PolicyOptimizer, directory: Path) -> None:
    """Take back what was written, in place, also with another number of workers. Collective.

    Raises:
        UserError: there is no checkpoint, a damaged one, one of another format, or that of another model.
    """
    manifest = read_manifest(directory)
    reader = HuggingFaceStorageReader(str(directory / SHARDS))
    with reading(directory / SHARDS, EARLIER), _plainly():
        held = reader.read_metadata().state_dict_metadata
    wanted = _weights(model)
    if unlike := sorted(
        name for name, weight in wanted.items() if getattr(held.get(name), "size", None) != weight.shape
    ):
        raise UserError(
            f"{directory} is the checkpoint of another model: it has no {unlike[0]} of shape "
            f"{tuple(wanted[unlike[0]].shape)}; resume with the policy.model and policy.lora that the run began with"
        )
    optimizer.restart()
    for name, weight in _trained(model).items():
        if f"{MOMENTS[0]}.{name}" in held:
            step = torch.zeros((), device=distributed.device())
            moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            optimizer.adam.state[weight] = {"step": step} | moments
    with reading(directory / SHARDS, EARLIER), _plainly():
        state_dict_loader.load(wanted | _moments(model, optimizer), storage_reader=reader)
    optimizer.steps, optimizer.stage = manifest["steps"], manifest["stage"]
    if manifest["workers"] == distributed.world_size():
        _set_random_state(safetensors.torch.load_file(directory / f"random-{distributed.rank()}.safetensors"))


def read_manifest(directory: Path) -> dict[str, Any]:
    """What `policy.json` says. Raises UserError: it is missing, damaged or of another format."""
    if (directory / "policy.pt").is_file():
        raise UserError(
            f"{directory} was written as one file (policy.pt), which this version does not read: resume with the "
            "version that wrote it"
        )
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        found = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory} holds no learner checkpoint ({MANIFEST} is missing or damaged): {EARLIER}"
        ) from error
    if found != FORMAT:
        raise UserError(f"{directory} has learner format {found}, not {FORMAT}: use the version that wrote it")
    return manifest


@contextmanager
def _plainly() -> Iterator[None]:
    """The error of a rank itself, where torch's checkpoints raise one that is no Exception, and damage as a ValueError.
    Their warning is left out."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=ALONE)
            yield
    except CheckpointException as error:
        (cause, _) = error.failures[min(error.failures)]
        raise (ValueError(str(cause)) if isinstance(cause, SafetensorError) else cause) from error
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {f"weight.{name}": parameter.detach() for name, parameter in _trained(model).items()}


def _moments(model: nn.Module, optimizer: PolicyOptimizer) -> dict[str, Tensor]:
    """Of the weights that have taken a step; views, so that loading fills them."""
    states = optimizer.adam.state
    return {
        f"{kind}.{name}": states[weight][kind].view(1) if kind == "step" else states[weight][kind]
        for name, weight in _trained(model).items()
        if weight in states
        for kind in MOMENTS
    }


def _files(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of the file, from 1, that a tensor goes to."""
    files, number, filled = {}, 1, 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if filled and filled + size > FILE_BYTES:
            number, filled = number + 1, 0
        files[name], filled = number, filled + size
    return files


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if distributed.device().type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(distributed.device())
    return state


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and distributed.device().type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], distributed.device())
