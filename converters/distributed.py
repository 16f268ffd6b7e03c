"""Ranks: several processes under torchrun, or the one that is nothing special."""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from converters.devices import find_device
from converters.errors import InputError, report

T = TypeVar("T")


class SharedInputError(InputError):
    """A mistake that every rank knows of, so that one of them can speak for all."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


def join(device: str | None) -> Ranks:
    """Join the process group that torchrun describes, if it does: NCCL on GPUs, gloo on CPUs.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; None for a GPU where there is one.

    Raises:
        InputError: the device does not exist.
    """
    if "WORLD_SIZE" not in os.environ:
        chosen = find_device(device)
        if chosen.index is not None and chosen.type == "cuda":
            torch.cuda.set_device(chosen)  # frameworks say "cuda" and mean the current one
        return Ranks(0, 1, chosen)
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = find_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size(), chosen)


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank; 0 outside of torchrun."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 outside of torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_main(message: str | None) -> str | None:
    """What the main rank says, on every rank."""
    if not dist.is_initialized():
        return message
    messages = [message]
    dist.broadcast_object_list(messages)
    return messages[0]


def together(ranks: Ranks, action: Callable[[], T]) -> T:
    """What an action gives, once it has succeeded on every rank: a rank that failed would be waited for in vain.

    Raises:
        SharedInputError: the action raised an InputError on some rank.
        RuntimeError: it raised something else on another rank; on this one that itself.
    """
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    mine = (str(failure), isinstance(failure, InputError)) if failure else None
    failures: list[tuple[str, bool] | None] = [mine] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(failures, mine)
    if failure and not isinstance(failure, InputError):
        raise failure
    for message, is_users in filter(None, failures):
        raise SharedInputError(message) if is_users else RuntimeError(f"another rank failed: {message}")
    return result


def agree(ranks: Ranks, value: str, mistake: str) -> None:
    """Make sure that all ranks hold the same, before they go on as if they did.

    Args:
        ranks: this process among its peers.
        value: what each holds.
        mistake: what to tell the user if they differ.

    Raises:
        SharedInputError: they differ.
    """
    values: list[str | None] = [value] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(values, value)
    if len(set(values)) > 1:
        raise SharedInputError(mistake)


def as_one_of_many(ranks: Ranks, work: Callable[[], int], let_go: Callable[[], None]) -> int:
    """Do one rank's share and leave the group: of a mistake that all know of, the main rank tells.

    Any other error ends this process at once, and with it all others: they may wait for it in a collective, and leaving
    the group would wait for them.

    Args:
        ranks: this process among its peers.
        work: the share; returns the exit code.
        let_go: drop what else holds the groups of processes.

    Returns:
        The exit code.
    """
    try:
        code = work()
    except SharedInputError as error:
        if ranks.is_main:
            report(error)
        together(ranks, lambda: None)  # a launcher stops the others when the first one ends
        code = 2
    except Exception as error:
        report(error) if isinstance(error, InputError) else traceback.print_exc()
        sys.stdout.flush()
        os._exit(2 if isinstance(error, InputError) else 1)
    let_go()
    leave()
    return code


def gather(x: Tensor, dim: int = 0) -> Tensor:
    """Tensors of all ranks, concatenated in the order of ranks; no gradient flows through.

    Args:
        x: the same shape on every rank.
        dim: along which they are joined.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts, dim)


class _Gather(torch.autograd.Function):
    """Forward: the rows of all ranks. Backward: what the losses of all ranks together ask of this rank's rows."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0]).chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    """Forward: the sum over ranks. Backward: likewise, since every rank's loss holds every rank's summand."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return sum_over_ranks(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0])


def gather_with_gradient(x: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks, as if one process had computed them.

    The gradient of a rank's rows is the sum over the losses of all ranks. So where every rank computes the mean over
    its own images, or all compute the same loss of all images, the mean over ranks that DistributedDataParallel takes
    is the gradient of the joint batch.

    Args:
        x: the same shape on every rank, (N, ...).
    """
    gathered: Tensor = _Gather.apply(x) if world_size() > 1 else x
    return gathered


def sum_with_gradient(x: Tensor) -> Tensor:
    """Sum of a tensor over all ranks; gradients as by `gather_with_gradient`."""
    total: Tensor = _Sum.apply(x) if world_size() > 1 else x
    return total


def gather_shards(x: Tensor, num_total: int) -> Tensor:
    """Undo ``x_all[rank::world_size]``: rows of all ranks in their original order, each exactly once.

    Args:
        x: this rank's rows, (ceil or floor of num_total / world_size, ...).
        num_total: number of rows of all ranks together.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    world_size = dist.get_world_size()
    longest = -(-num_total // world_size)
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    interleaved = gather(padded[:, None], dim=1)  # (longest, world_size, ...): [i, r] is image i * world_size + r
    return interleaved.flatten(0, 1)[:num_total]


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over all ranks; no gradient flows through."""
    if world_size() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """Average of a tensor over all ranks."""
    return sum_over_ranks(x) / world_size() if world_size() > 1 else x
