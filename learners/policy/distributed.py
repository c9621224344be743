"""The little of torch.distributed that learners need; everything also works where no process group exists."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from learners.policy.model import PolicyModel


def world_size() -> int:
    """Number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this worker."""
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """The accelerator of this worker, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def sum_over_workers(tensor: Tensor) -> Tensor:
    """Element-wise sum; the input is left alone."""
    return _reduce(tensor, dist.ReduceOp.SUM)


def max_over_workers(value: int, device: torch.device) -> int:
    """The largest of the workers' values."""
    return int(_reduce(torch.tensor(value, device=device), dist.ReduceOp.MAX).item())


def gather_objects(value: Any) -> list[Any]:
    """The values of all workers in order of rank, on every worker."""
    gathered: list[Any] = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait for all workers."""
    if dist.is_initialized():
        dist.barrier()


def shard(model: PolicyModel, device: torch.device, dtype: torch.dtype) -> None:
    """FSDP2 over all workers, in place: one unit a decoder layer and one for the rest. Gradients are *summed*, since
    every loss is already divided by the global token count. Gloo on CPU works the same. Weights on `meta` stay there,
    as shards without content."""
    mesh = init_device_mesh(device.type, (world_size(),))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in [*model.layers, model]:
        fully_shard(unit, mesh=mesh, mp_policy=precision)
        assert isinstance(unit, FSDPModule)
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        unit.set_gradient_divide_factor(1.0)
    register_fsdp_forward_method(model, "read")  # gathers weights as `forward` does


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward pass adds the gradients up over all workers, those of the passes before it with them;
    else each worker keeps its own, of the whole model. No effect on a model that is not sharded."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def assign(module: nn.Module, name: str, whole: Tensor) -> None:
    """Give a parameter of a module, sharded or not and perhaps still on `meta`, these values, its own dtype kept; all
    ranks have the same `whole`."""
    before: nn.Parameter = getattr(module, name)
    value = whole.to(device(), before.dtype)
    if isinstance(before, DTensor):
        value = distribute_tensor(value, before.device_mesh, before.placements, src_data_rank=None)
    setattr(module, name, nn.Parameter(value, before.requires_grad))


def settle_shards(model: nn.Module) -> set[str]:
    """Give every shard that was loaded memory of its own: one that a file holds in the same precision is still a view
    of that file, mapped with the rows of all other ranks.

    Returns:
        Names of the parameters of which this rank has no row, as with more workers than experts. They leave `meta`
        here, since no file holds anything for them.
    """
    without_rows = set()
    for name, weight in list(model.named_parameters()):
        local = weight.to_local() if isinstance(weight, DTensor) else weight
        if not isinstance(weight, DTensor) or (local.is_meta and local.numel()):
            continue
        if not local.numel():
            without_rows.add(name)
            own = torch.empty(local.shape, dtype=local.dtype, device=device())
        elif local.untyped_storage().nbytes() != local.nbytes:
            own = local.detach().clone()
        else:
            continue
        like = {"shape": weight.shape, "stride": weight.stride(), "run_check": False}
        shard = DTensor.from_local(own, weight.device_mesh, weight.placements, **like)
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, nn.Parameter(shard, weight.requires_grad))
    return without_rows


def _reduce(tensor: Tensor, operation: Any) -> Tensor:
    reduced = tensor.clone()
    if dist.is_initialized():
        dist.all_reduce(reduced, operation)
    return reduced
