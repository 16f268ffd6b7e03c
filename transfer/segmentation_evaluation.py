"""What a segmentor says of the validation images: a confusion matrix of each, and label maps of the first ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from converters.checkpoint import atomic_write
from converters.distributed import Ranks
from converters.targets import quiet
from transfer.progress import ImageBar
from transfer.segmentation_config import Plan
from transfer.segmentation_data import LabelSet
from transfer.segmentation_metrics import Cells, Confusions, confusion

with quiet():
    from mmengine.runner import Runner
    from mmseg.registry import DATASETS, MODELS

Labels = npt.NDArray[np.uint8]

NUM_PICTURES = 10  # as many as Figure 7 of the GSG paper shows


@dataclass(frozen=True)
class Segmented:
    """What was found.

    Attributes:
        confusions: of all images.
        first: the network's labels of the first `NUM_PICTURES` images, (H, W) each.
    """

    confusions: Confusions
    first: tuple[Labels, ...]


def build_dataset(settings: Any, labels: LabelSet) -> Any:
    """MMSegmentation's data set, without the images that have no label.

    Args:
        settings: of the configuration.
        labels: the images that were checked.
    """
    with quiet():
        everything = DATASETS.build(settings)
        listed = [Path(record["img_path"]).stem for record in everything.load_data_list()]
        if not labels.left_out:
            assert tuple(listed) == labels.names, "MMSegmentation reads what was checked"
            return everything
        kept = set(labels.names)
        return DATASETS.build({**settings, "indices": [at for at, name in enumerate(listed) if name in kept]})


def segment(model: nn.Module, plan: Plan, labels: LabelSet, ranks: Ranks) -> Segmented | None:
    """Run a segmentor over the validation images, each once, whatever the number of processes.

    Args:
        model: in eval mode afterwards.
        plan: the configuration.
        labels: the validation images.
        ranks: this process among its peers, which share the images.

    Returns:
        What it found, in the order of the images; None on other processes than the main one.
    """
    share = range(ranks.rank, len(labels.names), ranks.world_size)
    loader, tested = _loader(plan, labels, share), _tested(model, plan)
    tested.eval()
    found, first = list[tuple[int, Cells]](), list[tuple[int, Labels]]()
    with ImageBar("validating", len(share), ranks) as bar, torch.no_grad():
        for index, batch in zip(share, loader, strict=True):
            predicted, truth = _predict(tested, batch)
            found.append((index, confusion(truth, predicted, len(labels.classes))))
            if index < NUM_PICTURES:
                first.append((index, predicted))
            bar.advance(1)
    cells, pictures = _joined(found, ranks), _joined(first, ranks)
    if not ranks.is_main:
        return None
    return Segmented(Confusions.of(cells, labels.names, len(labels.classes)), tuple(pictures))


def try_validation(model: nn.Module, plan: Plan, labels: LabelSet) -> None:
    """Run a segmentor over the first validation image, so that what breaks does so before it is trained.

    Args:
        model: in training mode afterwards as before.
        plan: the configuration.
        labels: the validation images.
    """
    tested = _tested(model, plan)
    tested.eval()
    with torch.no_grad():
        [batch] = _loader(plan, labels, range(1))
        predicted, truth = _predict(tested, batch)
    confusion(truth, predicted, len(labels.classes))
    tested.train()


def _loader(plan: Plan, labels: LabelSet, share: range) -> Any:
    options = plan.config.test_dataloader
    dataset = build_dataset(options.dataset, labels)
    return Runner.build_dataloader({**options, "dataset": dataset, "sampler": list(share), "batch_size": 1})


def _tested(model: nn.Module, plan: Plan) -> nn.Module:
    """The segmentor, or what averages over its views of an image."""
    if not plan.tests_at_several_scales:
        return model
    averaging: nn.Module = MODELS.build({**plan.config.tta_model, "module": model})
    return averaging


def _predict(model: Any, batch: Any) -> tuple[Labels, Labels]:
    """What the network says of an image, and the truth with 255 where there is none, (H, W)."""
    [sample] = model.test_step(batch)
    predicted, truth = (
        each.data.squeeze(0).to(torch.uint8).cpu().numpy() for each in (sample.pred_sem_seg, sample.gt_sem_seg)
    )
    return predicted, truth


def _joined(mine: list[tuple[int, Any]], ranks: Ranks) -> list[Any]:
    """The shares of all processes, on the main one, in the order of the images."""
    parts: list[list[tuple[int, Any]] | None] = [mine]
    if ranks.world_size > 1:
        parts = [None] * ranks.world_size
        dist.gather_object(mine, parts if ranks.is_main else None)
    return [each for _, each in sorted((pair for part in parts for pair in part or ()), key=lambda pair: pair[0])]


def write_predictions(first: Sequence[Labels], labels: LabelSet, folder: Path) -> None:
    """Keep the label maps of the first images as PNG files, with ADE20K's numbers: the classes from 1 on.

    Args:
        first: the network's labels, from 0.
        labels: the validation images.
        folder: made if it is missing.
    """
    folder.mkdir(exist_ok=True)
    for name, predicted in zip(labels.names[: len(first)], first, strict=True):
        with atomic_write(folder / f"{name}.png") as temporary:
            Image.fromarray(predicted + 1).save(temporary, format="PNG")
