"""Training by Detectron2's trainer and hooks, with images and random numbers that a resumed run finds again.

Detectron2 restores weights, optimiser and rate; its image order, augmentation and sampling of proposals start afresh.
Here all of these are functions of the seed and of the position, so that a killed run ends where an unbroken one does:
bit for bit on a CPU, and on a GPU as far as its operations repeat themselves.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset, get_worker_info

from converters.checkpoint import atomic_write
from converters.distributed import Ranks, agree, together
from converters.errors import InputError
from converters.randomness import position_seed
from converters.targets import quiet
from transfer.order import places
from transfer.progress import IterationBar
from transfer.training_folder import forget_lines

with quiet():
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.data.common import DatasetFromList
    from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
    from detectron2.engine.train_loop import HookBase
    from detectron2.modeling import GeneralizedRCNN
    from detectron2.solver import build_lr_scheduler, build_optimizer
    from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage

METRICS = "metrics.json"

_WRITE_EVERY = 20  # iterations: Detectron2's default
_KEPT_STATES = 2  # the last one, and one to fall back on

Record = dict[str, Any]


class Stream(IterableDataset[Record]):
    """The endless, shuffled stream of training images of one process, from any iteration on.

    Images in the middle of an unfinished batch of Detectron2's grouping by aspect ratio come first, so that it goes on
    with the batches that it would have made.

    Args:
        dicts: Detectron2's records.
        seed: of the run.
        ranks: this process among its peers; each takes every world_size-th image.
        batch: images of an iteration in this process.
        start: iterations that are finished.
    """

    def __init__(self, dicts: Sequence[Record], seed: int, ranks: Ranks, batch: int, start: int) -> None:
        self._dicts = DatasetFromList(list(dicts), copy=False)  # in one buffer, which workers can share
        self._wide = np.array([record["width"] > record["height"] for record in dicts])
        self._seed, self._ranks, self._batch = seed, ranks, batch
        self._held, self._first = self._position(start)

    def __iter__(self) -> Iterator[Record]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for position, index in islice(self.positions(), first, None, step):
            yield {**self._dicts[index], "position": position}

    def positions(self) -> Iterator[tuple[int, int]]:
        """Places in the stream of all processes and the images there, for this process."""
        yield from self._held
        yield from islice(self._all(), self._first, None)

    def _all(self) -> Iterator[tuple[int, int]]:
        """Every place of this process's stream, from its beginning."""
        return places(len(self._wide), self._seed, self._ranks)

    def _position(self, iterations: int) -> tuple[list[tuple[int, int]], int]:
        """The images that wait for a batch after some iterations, and how many places are behind them."""
        waiting: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        done = taken = 0
        stream = self._all()
        while done < iterations:
            place = next(stream)
            taken += 1
            group = waiting[bool(self._wide[place[1]])]
            group.append(place)
            if len(group) == self._batch:
                group.clear()
                done += 1
        return waiting[True] + waiting[False], taken


class SeededMapper:
    """Detectron2's mapper, with augmentation that depends on the seed and the place in the stream alone.

    Args:
        config: Detectron2's.
        seed: of the run.
    """

    def __init__(self, config: CfgNode, seed: int) -> None:
        self._mapper, self._seed = DatasetMapper(config, True), seed

    def __call__(self, record: Record) -> Record:
        """The record with its image read, augmented, and its boxes as instances."""
        record = dict(record)
        place = record.pop("position")
        np.random.seed(position_seed(self._seed, "augmentation", place) % 2**32)  # noqa: NPY002 - Detectron2 draws there
        mapped: Record = self._mapper(record)
        return mapped


class Seeding(HookBase):  # type: ignore[misc]
    """Seeds what the model draws (proposals, boxes) by iteration and process.

    Args:
        seed: of the run.
        rank: of this process.
    """

    def __init__(self, seed: int, rank: int) -> None:
        self._seed, self._rank = seed, rank

    def before_step(self) -> None:
        """Seed the iteration that comes."""
        torch.manual_seed(position_seed(self._seed, "iteration", self.trainer.iter, self._rank))


class Bar(EventWriter):  # type: ignore[misc]
    """The project's bar in place of Detectron2's lines.

    Args:
        total: iterations of the run.
        start: of them finished.
    """

    def __init__(self, total: int, start: int) -> None:
        self._bar = IterationBar(total, start)

    def write(self) -> None:
        """Move on."""
        storage = get_event_storage()
        latest = storage.latest()
        if "total_loss" in latest:
            loss, rate = (latest[name][0] for name in ("total_loss", "lr"))
            self._bar.move(storage.iter + 1, f"loss {loss:.3f}, rate {rate:.2g}")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


class Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Detectron2's, with no state that is broken, half noted, or half loaded."""

    def save(self, name: str, **content: Any) -> None:
        """Write a state.

        Raises:
            FloatingPointError: a weight is not finite, so that no state after it is worth keeping.
        """
        broken = [name for name, weight in self.model.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise FloatingPointError(f"not finite: {broken[0]}")
        super().save(name, **content)

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [*incompatible.missing_keys, *incompatible.unexpected_keys, *incompatible.incorrect_shapes]
        if wrong:
            raise ValueError(f"{len(wrong)} tensors do not fit the detector, such as {wrong[0]}")
        return incompatible

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which state is the last one."""
        with atomic_write(Path(self.save_dir) / "last_checkpoint") as temporary:
            temporary.write_text(last_filename_basename)


def train(
    model: GeneralizedRCNN, config: CfgNode, dicts: Sequence[Record], seed: int, ranks: Ranks, *, resume: bool
) -> None:
    """Train a detector to the end, from its loaded weights or from the last state of its folder.

    Args:
        model: on the device, with its weights; changed in place.
        config: Detectron2's; states and metrics go to its OUTPUT_DIR.
        dicts: records of the training images, those without a box left out.
        seed: of the run.
        ranks: this process among its peers.
        resume: go on from the last state, if there is one.

    Raises:
        InputError: the loss is not finite, or the last state is damaged.
    """
    output = Path(config.OUTPUT_DIR)
    optimizer = build_optimizer(config, model)
    wrapped = _wrap(model, ranks)
    if config.SOLVER.AMP.ENABLED:
        trainer = AMPTrainer(wrapped, (), optimizer, grad_scaler=torch.amp.GradScaler("cuda"))
    else:
        trainer = SimpleTrainer(wrapped, (), optimizer)
    # the rate is part of a state, so its hook has to be there when one is loaded
    trainer.register_hooks([hooks.LRScheduler(optimizer, build_lr_scheduler(config, optimizer))])
    checkpointer = Checkpointer(wrapped, str(output), trainer=trainer)
    start = together(ranks, lambda: _resume(checkpointer, trainer) if resume else 0)
    agree(ranks, str(start), f"{output} is not the same on all machines; --output must be shared")
    trainer.reset_data_loader(lambda: _loader(config, dicts, seed, ranks, start, config.DATALOADER.NUM_WORKERS))
    trainer.register_hooks([hooks.IterationTimer(), Seeding(seed, ranks.rank)])
    if config.TEST.PRECISE_BN.ENABLED:
        own = _loader(config, dicts, seed, ranks, start=0, workers=0)
        trainer.register_hooks([hooks.PreciseBN(0, model, own, config.TEST.PRECISE_BN.NUM_ITER)])
    if ranks.is_main:
        trainer.register_hooks(_writing_hooks(checkpointer, config, output, start))
    try:
        trainer.train(start, config.SOLVER.MAX_ITER)
    except FloatingPointError as error:
        raise _divergence(trainer.iter, optimizer.param_groups[0]["lr"], config, output) from error
    _share_buffers(model, ranks)


def _loader(config: CfgNode, dicts: Sequence[Record], seed: int, ranks: Ranks, start: int, workers: int) -> Any:
    """Detectron2's batches of this process, from an iteration on."""
    batch = config.SOLVER.IMS_PER_BATCH
    return build_detection_train_loader(
        Stream(dicts, seed, ranks, batch // ranks.world_size, start),
        mapper=SeededMapper(config, seed),
        total_batch_size=batch,
        num_workers=workers,
        seed=seed,  # else its start would take a number from the generator that the iteration has seeded
    )


def _writing_hooks(checkpointer: Checkpointer, config: CfgNode, output: Path, start: int) -> list[HookBase]:
    """What the main process writes: states, metrics, TensorBoard's events, and the bar."""
    forget_lines(output / METRICS, start)
    states = hooks.PeriodicCheckpointer(checkpointer, config.SOLVER.CHECKPOINT_PERIOD, max_to_keep=_KEPT_STATES)
    states.recent_checkpoints = sorted(map(str, output.glob("model_[0-9]*.pth")))  # of before the kill
    writers = [
        Bar(config.SOLVER.MAX_ITER, start),
        JSONWriter(str(output / METRICS)),
        TensorboardXWriter(str(output), purge_step=start),
    ]
    return [states, hooks.PeriodicWriter(writers, period=_WRITE_EVERY)]


def load_trained(model: GeneralizedRCNN, output: Path) -> int:
    """Put the last state of a run's folder into a detector.

    Returns:
        Its finished iterations.

    Raises:
        InputError: there is none, or it is damaged.
    """
    checkpointer = Checkpointer(model, str(output))
    if not checkpointer.has_checkpoint():
        raise InputError(f"--eval-only: expected a trained detector in {output}, got none; train first")
    return int(_load(checkpointer)["iteration"]) + 1


def _share_buffers(model: GeneralizedRCNN, ranks: Ranks) -> None:
    """Give all processes the batch norms of the main one, whose state is kept: precise statistics differ among them."""
    if ranks.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def _wrap(model: GeneralizedRCNN, ranks: Ranks) -> Any:
    if ranks.world_size == 1:
        return model
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def _resume(checkpointer: Checkpointer, trainer: SimpleTrainer) -> int:
    """Finished iterations of the last state, which is loaded; 0 without one."""
    if not checkpointer.has_checkpoint():
        return 0
    _load(checkpointer)
    return int(trainer.iter) + 1


def _load(checkpointer: Checkpointer) -> Record:
    path = checkpointer.get_checkpoint_file()
    try:
        content: Record = checkpointer.resume_or_load("", resume=True)
    except Exception as error:  # torch.load raises whatever the damaged byte happens to break
        reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0]
        others = sorted(Path(path).parent.glob("model_*.pth"))
        raise InputError(
            f"{path} is damaged ({reason}); write the name of an older state into last_checkpoint beside it "
            f"({', '.join(other.name for other in others if other != Path(path)) or 'there is none: start again'})"
        ) from error
    return content


def _divergence(iteration: int, rate: float, config: CfgNode, output: Path) -> InputError:
    """What to tell of a loss, or of proposals, that are not finite."""
    solver = config.SOLVER
    last = output / "last_checkpoint"
    state = f"last good state: {output / last.read_text()}" if last.is_file() else "no state was saved before"
    return InputError(
        f"the loss is not finite in iteration {iteration} (learning rate {rate:.3g} of {solver.BASE_LR:g}, batch "
        f"{solver.IMS_PER_BATCH}); {state}; start again in another --output with a lower rate: "
        f"--opts SOLVER.BASE_LR {solver.BASE_LR / 2:g}"
    )


@contextlib.contextmanager
def logged_to(output: Path, rank: int) -> Iterator[None]:
    """Send the log lines of Detectron2 to log.txt in the run's folder, and none to the terminal."""
    handler = logging.FileHandler(output / (f"log.txt.rank{rank}" if rank else "log.txt"))
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
