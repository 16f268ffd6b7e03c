"""What a segmentation run proves before its first iteration, on the very segmentor that it is going to train."""

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters.checkpoint import Checkpoint
from converters.errors import InputError, first_few
from converters.targets import quiet
from transfer.proof import Cost, compare_stages, count_values, measure_cost, num_trainable, rounded
from transfer.segmentation_config import Plan
from transfer.segmentation_data import LabelSet
from transfer.segmentation_evaluation import build_dataset

with quiet():
    from mmengine.dataset import pseudo_collate
    from mmengine.structures import PixelData
    from mmseg.registry import TRANSFORMS

_RESIZE = "RandomChoiceResize"  # the one transform that makes images of several sizes


def check_loaded(model: Any, checkpoint: Checkpoint) -> str:
    """That every tensor of the checkpoint is the segmentor's now, and no other is in its backbone.

    Args:
        model: the segmentor, initialised by MMEngine.
        checkpoint: what it should have been loaded with.

    Returns:
        How many, and their checksum.

    Raises:
        InputError: one is missing, another's or different, which MMEngine would only have warned of.
    """
    found = {name: tensor.cpu() for name, tensor in model.backbone.state_dict().items()}
    expected = checkpoint.backbone
    wrong = [name for name in expected if name not in found or not torch.equal(found[name], expected[name])]
    wrong += [name for name in found if name not in expected]
    if wrong:
        raise InputError(
            f"expected the checkpoint's {len(expected)} tensors in the segmentor's backbone, got {len(wrong)} that are "
            f"missing or different ({first_few(wrong)}); leave model.backbone out of --cfg-options"
        )
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + found[name].contiguous().numpy().tobytes())
    stem = tuple(found["conv1.weight"].shape)
    return (
        f"loaded: {len(found)} of {len(expected)} tensors of the backbone, bit for bit, sha256 "
        f"{digest.hexdigest()[:12]}; stem: one {stem[2]}x{stem[3]} convolution of {stem[0]} channels"
    )


def check_trainable(model: nn.Module, plan: Plan) -> list[str]:
    """Which tensors are going to train, counted against the protocol.

    Args:
        model: the segmentor, in training mode.
        plan: that it was built from.

    Returns:
        Two lines: of the backbone, and of the heads.

    Raises:
        InputError: more or fewer train than the configuration says.
    """
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    inside = {name: tensor for name, tensor in trainable.items() if name.startswith("backbone.")}
    backbone = plan.config.model.backbone
    frozen = backbone.get("frozen_stages", -1)
    expected = num_trainable(backbone.depth, frozen + 1, norms=backbone.norm_cfg.get("requires_grad", True))
    if len(inside) != expected:
        raise InputError(
            f"frozen_stages {frozen}: expected {expected} tensors of the backbone to train, got {len(inside)}; this "
            "MMSegmentation freezes something else"
        )
    heads = {name: tensor for name, tensor in trainable.items() if name not in inside}
    norms = "statistics kept" if backbone.get("norm_eval", False) else "statistics of the batch"
    return [
        f"trains of the backbone: {len(inside)} tensors, {count_values(inside):,} values (frozen_stages {frozen}; "
        f"{backbone.norm_cfg.type}, {norms})",
        f"trains on it: {', '.join(dict.fromkeys(name.split('.')[0] for name in heads))} ({len(heads)} tensors, "
        f"{count_values(heads):,} values)",
    ]


def check_features(model: nn.Module, plan: Plan, checkpoint: Checkpoint) -> str:
    """That the segmentor's own backbone, behind its own reading and normalisation, computes what the checkpoint does.

    Args:
        model: the segmentor with its weights loaded.
        plan: that it was built from.
        checkpoint: what it was loaded with.

    Returns:
        What was found, in a sentence.

    Raises:
        InputError: a stage's output for a photograph differs.
    """
    segmentor: Any = copy.deepcopy(model).cpu().eval()  # in full precision, whatever the device does
    segmentor.data_preprocessor.test_cfg = None  # padding would show in the outputs of the border
    loaders = plan.config.train_dataloader, plan.config.test_dataloader
    with quiet():
        loads = [TRANSFORMS.build(loader.dataset.pipeline[0]) for loader in loaders]

    def stages(picture: Path) -> Sequence[Tensor]:
        trained, validated = (load({"img_path": str(picture)})["img"] for load in loads)
        if not np.array_equal(trained, validated):
            raise InputError("expected the same reading of images in training and validation; leave it out of options")
        image = torch.from_numpy(trained).permute(2, 0, 1)
        batch = segmentor.data_preprocessor({"inputs": [image]})["inputs"]
        outputs: Sequence[Tensor] = segmentor.backbone(batch)
        return outputs

    worst = compare_stages(checkpoint, stages)
    settings = plan.config.model.data_preprocessor
    order = "RGB" if settings.bgr_to_rgb else "BGR"
    return (
        f"pixels: {order}, mean {rounded(settings.mean)}, deviation {rounded(settings.std)} of 0..255; the segmentor's "
        f"four stages differ from the checkpoint's by {worst:.1e}"
    )


def trial(model: nn.Module, plan: Plan, labels: LabelSet, batch: int) -> Cost:
    """Memory of an iteration at the largest of the training sizes, and its time at the middle one.

    In the former, every second image lies on its side, since portraits among landscapes are padded to a square. Images
    that are narrower than the first ones can still need more.

    Args:
        model: the segmentor, in training mode; it is left as it was.
        plan: the configuration.
        labels: the training images; the first are taken.
        batch: images of an iteration in this process.

    Raises:
        InputError: there is not enough memory.
    """
    pipeline = plan.config.train_dataloader.dataset.pipeline
    scales = sorted(each for step in pipeline if step.type == _RESIZE for each in step.scales)
    chosen = [scales[-1], scales[len(scales) // 2], scales[len(scales) // 2]] if scales else [None] * 3
    turned = (True, False, False)
    batches = (_batch(plan, labels, batch, *each) for each in zip(chosen, turned, strict=True))
    advice = f"{batch} images in a process: lower --batch-size, or use more GPUs"
    return measure_cost(model, (partial(_loss, model, each, plan.amp) for each in batches), advice)


def _loss(model: Any, batch: Any, amp: bool) -> Tensor:
    with torch.autocast(next(model.parameters()).device.type, enabled=amp):
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total: Tensor = model.parse_losses(losses)[0]
    return total


def _batch(plan: Plan, labels: LabelSet, batch: int, scale: tuple[int, int] | None, turned: bool) -> Any:
    """The first training images, at one of the sizes where there are several, every second one turned."""
    settings = copy.deepcopy(plan.config.train_dataloader.dataset)
    for step in settings.pipeline:
        if step.type == _RESIZE:
            step.scales = [scale]
    dataset = build_dataset(settings, labels)
    samples = [dataset[at % len(dataset)] for at in range(batch)]
    for sample in samples[1::2] if turned else []:
        sample["inputs"] = sample["inputs"].transpose(1, 2)
        truth = sample["data_samples"].gt_sem_seg
        sample["data_samples"].gt_sem_seg = PixelData(data=truth.data.transpose(1, 2))
    return pseudo_collate(samples)
