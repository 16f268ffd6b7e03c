"""Training by MMEngine's Runner, with images and random numbers that a resumed run finds again.

MMEngine restores weights, optimiser, rate and image order; its augmentation and dropout start afresh. Here all of these
are functions of the seed and of the position, so that a killed run ends where an unbroken one does: bit for bit on a
CPU, and on a GPU as far as its operations repeat themselves.
"""

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.tensorboard import SummaryWriter

from converters.distributed import Ranks, together
from converters.errors import InputError
from converters.randomness import position_seed
from converters.targets import quiet
from transfer.order import places
from transfer.progress import IterationBar
from transfer.segmentation_config import Plan
from transfer.segmentation_files import METRICS
from transfer.training_folder import forget_lines

with quiet():
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.model import MMDistributedDataParallel
    from mmengine.runner import Runner
    from mmengine.runner.checkpoint import get_torch_safe_globals

_WRITE_EVERY = 20  # iterations: often enough for a curve, and too seldom to cost time
_LAST = "last_checkpoint"  # MMEngine's note of the last state's name


class Places(Sampler[tuple[int, int]]):
    """MMEngine's infinite sampler, which also says at which place of the order an image stands.

    Args:
        dataset: of the images.
        seed: of the run.
        ranks: this process among its peers.
    """

    def __init__(self, dataset: Sized, seed: int, ranks: Ranks) -> None:
        self._size, self._seed, self._ranks = len(dataset), seed, ranks
        self._first = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return islice(places(self._size, self._seed, self._ranks), self._first, None)

    def __len__(self) -> int:
        return self._size

    def skip(self, num_samples: int) -> None:
        """Begin behind this many images of this process: how MMEngine's loop resumes."""
        self._first = num_samples


class SeededImages(Dataset[dict[str, Any]]):
    """MMSegmentation's data set, with augmentation that depends on the seed and the place in the order alone.

    Args:
        dataset: MMSegmentation's.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    @property
    def metainfo(self) -> dict[str, Any]:
        """Classes and palette, which MMEngine keeps in its states."""
        content: dict[str, Any] = self._dataset.metainfo
        return content

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        """The image at a place, read and augmented.

        Args:
            place: in the order, and the image's index.
        """
        seed = position_seed(self._seed, "augmentation", place[0])
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the transforms draw there
        torch.manual_seed(seed)
        sample: dict[str, Any] = self._dataset[place[1]]
        return sample


class Seeding(Hook):  # type: ignore[misc]
    """Seeds what the network draws (dropout) by iteration and process.

    Args:
        seed: of the run.
        rank: of this process.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed, self._rank = seed, rank

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the iteration that comes; its images are drawn already."""
        torch.manual_seed(position_seed(self._seed, "iteration", batch_idx, self._rank))


class Watch(Hook):  # type: ignore[misc]
    """Ends a run whose loss or weights are not finite, before a state is overwritten by a broken one."""

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at the loss.

        Raises:
            FloatingPointError: it is not finite.
        """
        if not outputs["loss"].isfinite().all():
            raise FloatingPointError(f"loss {outputs['loss'].item()}")

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Look at the weights.

        Raises:
            FloatingPointError: one is not finite.
        """
        broken = [name for name, weight in checkpoint["state_dict"].items() if not weight.isfinite().all()]
        if broken:
            raise FloatingPointError(f"not finite: {broken[0]}")


class Journal(Hook):  # type: ignore[misc]
    """What the main process writes of a training: lines of numbers, TensorBoard's events, and the bar.

    Args:
        output: the run's folder.
        total: iterations of the run.
        start: of them finished.
    """

    priority = "VERY_LOW"

    def __init__(self, output: Path, total: int, start: int) -> None:
        forget_lines(output / METRICS, start)
        self._path, self._total = output / METRICS, total
        self._events = SummaryWriter(str(output), purge_step=start)
        self._bar = IterationBar(total, start)
        self._since, self._then = start, time.monotonic()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write now and then."""
        done = batch_idx + 1
        if done % _WRITE_EVERY and done != self._total:
            return
        now = time.monotonic()
        numbers = {name.removeprefix("decode."): _number(value) for name, value in outputs.items()}
        numbers["lr"] = runner.optim_wrapper.get_lr()["lr"][0]
        numbers["seconds"] = round((now - self._then) / (done - self._since), 4)
        self._since, self._then = done, now
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": batch_idx, **numbers}) + "\n")
        for name, value in numbers.items():
            self._events.add_scalar(name, value, batch_idx)
        self._bar.move(done, f"loss {numbers['loss']:.3f}, rate {numbers['lr']:.2g}")

    def close(self) -> None:
        """Leave the terminal as it was, and the events on the disk."""
        self._bar.close()
        self._events.close()


def _number(value: Tensor) -> float:
    return float(value.mean().item())


def train(model: nn.Module, plan: Plan, dataset: Any, seed: int, output: Path, ranks: Ranks, *, resume: bool) -> None:
    """Train a segmentor to the end, from its loaded weights or from the last state of its folder.

    Args:
        model: on the device, with its weights; changed in place.
        plan: the configuration.
        dataset: MMSegmentation's, of the training images.
        seed: of the run.
        output: the run's folder.
        ranks: this process among its peers.
        resume: go on from the last state, if there is one.

    Raises:
        InputError: the loss is not finite, or the last state is damaged.
    """
    state = together(ranks, lambda: last_state(output) if resume else None)
    start = 0 if state is None else together(ranks, lambda: int(read_state(state)["meta"]["iter"]))
    journal = Journal(output, plan.iterations, start) if ranks.is_main else None
    hooks = [Seeding(seed, ranks.rank), Watch(), *([journal] if journal else [])]
    runner = _runner(_wrap(model, ranks), plan, _loader(plan, dataset, seed, ranks), hooks, seed, output, state)
    try:
        runner.train()
    except FloatingPointError as error:
        raise _divergence(error, runner, plan, output) from error
    finally:
        if journal:
            journal.close()
        for handler in runner.logger.handlers:
            handler.close()
        runner.logger.handlers.clear()
    _share_buffers(model, ranks)


def _loader(plan: Plan, dataset: Any, seed: int, ranks: Ranks) -> DataLoader[Any]:
    """MMEngine's batches of this process."""
    options = {key: value for key, value in plan.config.train_dataloader.items() if key not in ("dataset", "sampler")}
    seeded = SeededImages(dataset, seed)
    loader: DataLoader[Any] = Runner.build_dataloader(
        {**options, "dataset": seeded, "sampler": Places(seeded, seed, ranks)}, seed=seed
    )
    return loader


def _runner(
    model: nn.Module,
    plan: Plan,
    loader: DataLoader[Any],
    hooks: list[Hook],
    seed: int,
    output: Path,
    state: Path | None,
) -> Runner:
    config = plan.config
    # its log goes to a file of its own in the run's folder
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        runner = Runner(
            model,
            work_dir=str(output),
            train_dataloader=loader,
            train_cfg=config.train_cfg,
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            # metrics are the journal's, and the sampler needs no epoch
            default_hooks={"logger": None, "sampler_seed": None, "checkpoint": config.default_hooks.checkpoint},
            custom_hooks=hooks,
            load_from=None if state is None else str(state),
            resume=state is not None,
            launcher="pytorch" if dist.is_initialized() and dist.get_world_size() > 1 else "none",
            env_cfg=config.env_cfg,
            visualizer={"type": "Visualizer", "vis_backends": []},
            default_scope="mmseg",
            randomness={"seed": seed},
            experiment_name=f"{output.name}_{os.getpid()}_{time.monotonic_ns()}",  # MMEngine shares what has one name
            cfg=Config(config.to_dict(), filename=str(output / "config.py")),
        )
    runner.logger.handlers = [each for each in runner.logger.handlers if hasattr(each, "baseFilename")]
    return runner


def _wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    if ranks.world_size == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    wrapped: nn.Module = MMDistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    return wrapped


def _share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Give all processes the batch norms of the main one, whose state is kept: without SyncBN they differ."""
    if ranks.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def last_state(output: Path) -> Path | None:
    """The last state of a run's folder, wherever the folder was moved to; None without one.

    Raises:
        InputError: the state that MMEngine has noted is gone, or it has noted none.
    """
    note = output / _LAST
    if not note.is_file():
        return None
    name = Path(note.read_text().strip()).name
    if not name:  # killed while MMEngine rewrote the note, which it does when the newest state is whole
        states = _states(output)
        if not states:
            raise InputError(f"{note} is empty and no state lies beside it; start again in another --output")
        return states[-1]
    state = output / name
    if state.is_file():
        return state
    raise InputError(f"{state} is gone, which {note} names as the last state; {_others(output, state)}")


def read_state(path: Path) -> dict[str, Any]:
    """A state that MMEngine has written, unpickled as tensors, plain types and its own records of numbers only.

    Raises:
        InputError: it is damaged.
    """
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged byte happens to break
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        raise InputError(f"{path} is damaged ({reason}); {_others(path.parent, path)}") from error
    return content


def _states(output: Path) -> list[Path]:
    """By iteration: of two numbers the longer one is the later."""
    return sorted(output.glob("iter_*.pth"), key=lambda path: (len(path.name), path.name))


def _others(output: Path, state: Path) -> str:
    others = [each.name for each in _states(output) if each != state]
    if not others:
        return "there is no other: start again in another --output"
    return f"write the name of an older state into {_LAST} ({', '.join(others)})"


def load_trained(model: nn.Module, output: Path) -> int:
    """Put the last state of a run's folder into a segmentor.

    Returns:
        Its finished iterations.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = last_state(output)
    if path is None:
        raise InputError(f"--eval-only: expected a trained segmentor in {output}, got none; train first")
    state = read_state(path)
    model.load_state_dict(state["state_dict"], strict=True)
    return int(state["meta"]["iter"])


def _divergence(error: FloatingPointError, runner: Runner, plan: Plan, output: Path) -> InputError:
    """What to tell of a loss or weights that are not finite."""
    state = last_state(output)
    rate, base = runner.optim_wrapper.get_lr()["lr"][0], plan.config.optim_wrapper.optimizer.lr
    return InputError(
        f"training diverged in iteration {runner.iter + 1} ({error}; learning rate {rate:.3g} of {base:g}, batch "
        f"{plan.batch_size}); {f'last good state: {state}' if state else 'no state was saved before'}; start again in "
        f"another --output with a lower rate: --cfg-options optim_wrapper.optimizer.lr={base / 2:g}"
    )
