"""The protocols of configs/detection, value by value, and what a command changes of them."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from converters.errors import InputError
from transfer.detection_config import FOLDER, build_plan, flatten, protocols, read_protocol, rescale
from transfer.proof import num_trainable

# Lee & Lee 2023, appendix D.2, with the model of Detectron2's Base-RCNN-FPN.yaml
PUBLISHED: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.MASK_ON": False,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 4,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.NORM": "",
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.AMP.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.AUG.ENABLED": False,
    "TEST.PRECISE_BN.ENABLED": False,
}
VOC = {
    "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.0025,
    "SOLVER.STEPS": [96_000, 128_000],
    "SOLVER.MAX_ITER": 144_000,
    "SOLVER.WARMUP_ITERS": 100,
}
COCO = {
    "INPUT.MIN_SIZE_TRAIN": list(range(640, 801, 32)),
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": [210_000, 250_000],
    "SOLVER.MAX_ITER": 270_000,
    "SOLVER.WARMUP_ITERS": 1000,
}
# facebookresearch/moco, detection/configs
FINE_TUNED = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.FPN.NORM": "SyncBN",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "TEST.PRECISE_BN.ENABLED": True,
}


@functools.cache
def checkpoint(arch: str, pixels: Pixels) -> Checkpoint:
    backbone = build_backbone(arch).state_dict()
    return Checkpoint(arch, backbone, pixels, Source("simsiam", "online", None, None, None, None, "0"))


def plan(dataset: str = "voc", protocol: str = "published", arch: str = "resnet50", **options: Any) -> Any:
    run = {"OUTPUT_DIR": options.pop("output", "there"), "SEED": 3}
    pixels = options.pop("pixels", Pixels(224))
    return build_plan(dataset, protocol, checkpoint(arch, pixels), Path("backbone.pth"), run, **options)


@pytest.mark.parametrize(
    ("dataset", "protocol", "expected"),
    [
        ("voc", "published", PUBLISHED | VOC),
        ("coco", "published", PUBLISHED | COCO),
        ("voc", "short", PUBLISHED | VOC | {"SOLVER.STEPS": [24_000, 32_000], "SOLVER.MAX_ITER": 36_000}),
        ("coco", "short", PUBLISHED | COCO | {"SOLVER.STEPS": [60_000, 80_000], "SOLVER.MAX_ITER": 90_000}),
        (
            "voc",
            "finetune",
            PUBLISHED | VOC | FINE_TUNED | {"SOLVER.STEPS": [18_000, 22_000], "SOLVER.MAX_ITER": 24_000},
        ),
        (
            "coco",
            "finetune",
            PUBLISHED | COCO | FINE_TUNED | {"SOLVER.STEPS": [120_000, 160_000], "SOLVER.MAX_ITER": 180_000},
        ),
    ],
)
def test_protocol_has_the_published_values(dataset: str, protocol: str, expected: dict[str, Any]) -> None:
    found = flatten(read_protocol(dataset, protocol))
    assert {key: found[key] for key in expected} == expected


def test_every_file_is_a_protocol_or_the_base_of_all() -> None:
    names = {f"{dataset}_{protocol}" for dataset in ("voc", "coco") for protocol in protocols(dataset)}
    assert names | {"sample", "faster_rcnn_fpn"} == {path.stem for path in FOLDER.glob("*.yaml")}
    assert protocols("sample") == ("sample",)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_protocol_is_self_contained_and_says_where_it_comes_from(path: Path) -> None:
    text = path.read_text()
    assert "Source:" in text
    assert path.stem == "faster_rcnn_fpn" or re.search(r"^_BASE_: \w+\.yaml$", text, re.MULTILINE)
    assert "WEIGHTS" not in text
    assert path.stem == "faster_rcnn_fpn" or ("Expected" in text and "Command:" in text)


def test_unknown_protocol_is_suggested_another() -> None:
    with pytest.raises(InputError, match="unknown protocol of voc 'publshed'; did you mean 'published'"):
        read_protocol("voc", "publshed")


@pytest.mark.parametrize(
    ("dataset", "batch", "rate", "iterations", "steps", "warmup"),
    [  # .02 * B / 16, and iterations times 16 / B: Detectron2's 18k at 16 is the published VOC schedule at 2
        ("voc", 16, 0.02, 18_000, (12_000, 16_000), 100),
        ("voc", 8, 0.01, 36_000, (24_000, 32_000), 100),
        ("voc", 1, 0.00125, 288_000, (192_000, 256_000), 100),
        ("coco", 8, 0.01, 540_000, (420_000, 500_000), 1000),  # moco issue 11: half the batch, twice the iterations
        ("coco", 2, 0.0025, 2_160_000, (1_680_000, 2_000_000), 1000),
        ("coco", 6, 0.0075, 720_000, (560_000, 666_667), 1000),
    ],
)
def test_rescaling_keeps_the_number_of_images(
    dataset: str, batch: int, rate: float, iterations: int, steps: tuple[int, ...], warmup: int
) -> None:
    config = read_protocol(dataset, "published")
    images = config.SOLVER.IMS_PER_BATCH * config.SOLVER.MAX_ITER
    assert rescale(config, batch)
    solver = config.SOLVER
    assert pytest.approx(rate, rel=1e-12) == solver.BASE_LR
    assert (batch, iterations, steps) == (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS)
    assert warmup == solver.WARMUP_ITERS
    assert abs(batch * solver.MAX_ITER - images) < batch


def test_rescaled_protocol_says_so_and_has_another_hash() -> None:
    rescaled, published = plan(batch_size=8), plan()
    assert (rescaled.protocol, published.protocol) == ("published, batch 8", "published")
    assert rescaled.changes == (
        "batch 2 -> 8, learning rate 0.0025 -> 0.01, iterations 144000 -> 36000, steps 96000/128000 -> 24000/32000; "
        "warm-up of 100 iterations as before",
    )
    assert rescaled.protocol_hash != published.protocol_hash
    assert plan(batch_size=2).protocol_hash == published.protocol_hash
    assert plan(batch_size=2).changes == ()


def test_pixels_depth_and_stride_are_the_checkpoints() -> None:
    simclr = Pixels(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # SimCLR's weights expect pixels in 0..1
    config = plan(arch="resnet18", pixels=simclr).config
    assert list(config.MODEL.PIXEL_MEAN) == [0, 0, 0]
    assert list(config.MODEL.PIXEL_STD) == [255, 255, 255]
    assert (config.MODEL.RESNETS.DEPTH, config.MODEL.RESNETS.RES2_OUT_CHANNELS) == (18, 64)
    assert not config.MODEL.RESNETS.STRIDE_IN_1X1
    assert ("there", 3, str(Path("backbone.pth").absolute())) == (config.OUTPUT_DIR, config.SEED, config.MODEL.WEIGHTS)


def test_folder_may_be_named_like_a_number() -> None:
    assert plan(output="0").config.OUTPUT_DIR == "0"


def test_checkpoint_does_not_undo_how_the_protocol_trains_batch_norms() -> None:
    assert plan(protocol="finetune").config.MODEL.RESNETS.NORM == "SyncBN"


def test_hash_is_of_the_protocol_and_not_of_checkpoint_seed_or_folder() -> None:
    one = plan(arch="resnet18", pixels=Pixels(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert one.protocol_hash == plan().protocol_hash
    assert plan(opts=["DATALOADER.NUM_WORKERS", "1"]).protocol_hash == plan().protocol_hash
    assert plan(opts=["SOLVER.BASE_LR", "0.01"]).protocol_hash != plan().protocol_hash
    assert plan(amp=True).protocol_hash != plan().protocol_hash


def test_identity_is_also_of_the_checkpoints_pixels_and_the_seed() -> None:
    swapped = plan(opts=["INPUT.FORMAT", "BGR"])
    assert swapped.settings == plan().settings
    assert swapped.identity != plan().identity
    assert plan().identity["SEED"] == 3


def test_options_reach_detectron2_unchanged_and_are_recorded() -> None:
    changed = plan(opts=["SOLVER.BASE_LR", "0.01", "MODEL.BACKBONE.FREEZE_AT", "5"], batch_size=4)
    assert (changed.config.SOLVER.BASE_LR, changed.config.MODEL.BACKBONE.FREEZE_AT) == (0.01, 5)
    assert changed.protocol == "published, batch 4, opts"
    assert changed.changes[-1] == "--opts SOLVER.BASE_LR 0.01 MODEL.BACKBONE.FREEZE_AT 5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opts": ["SOLVER.BASE_LR"]}, r"--opts: expected KEY VALUE pairs, got 1 words: SOLVER.BASE_LR"),
        ({"opts": ["SOLVER.BASE_RL", "1"]}, "unknown key of --opts 'SOLVER.BASE_RL'; did you mean 'SOLVER.BASE_LR'"),
        ({"opts": ["SOLVER.MAX_ITER", "many"]}, "--opts: .*MAX_ITER.*; give a value of the same type"),
        ({"opts": ["OUTPUT_DIR", "x"]}, "OUTPUT_DIR is set by --output; use that"),
        ({"opts": ["MODEL.MASK_ON", "True"]}, "MODEL.MASK_ON would change nothing here, or break the run"),
        ({"opts": ["TEST.AUG.ENABLED", "True"]}, "TEST.AUG.ENABLED would change nothing here"),
        ({"opts": ["TEST.EVAL_PERIOD", "100"]}, "TEST.EVAL_PERIOD would change nothing here"),
        ({"opts": ["DATALOADER.SAMPLER_TRAIN", "x"]}, "DATALOADER.SAMPLER_TRAIN would change nothing here"),
        ({"dataset": "coco", "batch_size": 4096}, "expected the warm-up of 1000 iterations to end before the rate"),
        ({"batch_size": 0}, "--batch-size: expected 1 or more, got 0"),
        ({"arch": "resnet18_cifar"}, "no detector for this checkpoint: .*resnet18_cifar; give one of ResNet-18"),
        ({"protocol": "sample"}, "unknown protocol of voc 'sample'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan(**options)
    assert "\n" not in str(caught.value)


def test_number_of_trainable_tensors_is_that_of_the_table() -> None:
    assert [num_trainable(50, at, norms=False) for at in range(6)] == [53, 52, 42, 29, 10, 0]
    assert [num_trainable(50, at, norms=True) for at in range(6)] == [159, 156, 126, 87, 30, 0]


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_number_of_trainable_tensors_is_that_of_torchvisions_convolutions(arch: str) -> None:
    stages = [["conv1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    backbone = build_backbone(arch)
    convolutions = [name for name, module in backbone.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for freeze_at in range(6):
        training = sum([name.split(".")[0] for name in convolutions].count(stage) for [stage] in stages[freeze_at:])
        assert num_trainable(int(arch.removeprefix("resnet")), freeze_at, norms=False) == training
