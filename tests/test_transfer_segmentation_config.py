"""The protocols of configs/segmentation, value by value, what their parts do, and what a command changes of them."""

import copy
import dataclasses
import functools
import inspect
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmseg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from converters.backbones import build_backbone
from converters.checkpoint import Checkpoint, Pixels, Source
from converters.errors import InputError
from converters.targets import quiet
from transfer.segmentation_config import FOLDER, Plan, build_plan, protocols, read_protocol, rescale
from transfer.segmentation_packages import check_packages, find_mmsegmentation

with quiet():
    from mmcv.transforms import Compose
    from mmengine.config import Config
    from mmengine.hooks import CheckpointHook
    from mmengine.optim import OptimWrapper, build_optim_wrapper
    from mmengine.structures import PixelData
    from mmseg.models.backbones import ResNet
    from mmseg.registry import DATASETS, MODELS
    from mmseg.structures import SegDataSample
    from mmseg.utils import register_all_modules

    register_all_modules()

OFFICIAL = Path(mmseg.__file__).parent / ".mim" / "configs" / "upernet"
ADE = ("csail", "frozen", "mmseg160k", "mmseg80k", "short")
PARTS = ("model", "train_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")

SYNC = {"type": "SyncBN", "requires_grad": True}
SLOW_SYNC = SYNC | {"momentum": 0.001}
UPER_HEAD = {
    "type": "UPerHead",
    "in_channels": [256, 512, 1024, 2048],
    "in_index": [0, 1, 2, 3],
    "pool_scales": [1, 2, 3, 6],
    "channels": 512,
    "num_classes": 150,
    "align_corners": False,
}
BACKBONE = {
    "type": "ResNet",
    "depth": 50,
    "num_stages": 4,
    "out_indices": [0, 1, 2, 3],
    "style": "pytorch",
    "deep_stem": False,
    "norm_eval": False,
}
PREPROCESSOR = {
    "type": "SegDataPreProcessor",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "bgr_to_rgb": True,
    "pad_val": 0,
    "seg_pad_val": 255,
}
SEGMENTOR = {"type": "EncoderDecoder", "pretrained": None, "train_cfg": {}, "test_cfg": {"mode": "whole"}}
CROSS_ENTROPY = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}
SCALES = [[1000, 300], [1000, 375], [1000, 450], [1000, 525], [1000, 600]]
LOAD, LABELS, PACK = {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}
FLIP = {"type": "RandomFlip", "prob": 0.5}

# Ericsson et al. 2021 by CSAILVision's code; Lee & Lee 2023, appendix D.3
CSAIL: dict[str, Any] = {
    "model": SEGMENTOR
    | {
        "data_preprocessor": PREPROCESSOR | {"size_divisor": 32},
        "backbone": BACKBONE | {"norm_cfg": SLOW_SYNC},
        "decode_head": UPER_HEAD
        | {"norm_cfg": SLOW_SYNC, "dropout_ratio": 0.0, "loss_decode": CROSS_ENTROPY | {"avg_non_ignore": True}},
    },
    "train_dataloader.batch_size": 2,
    "train_dataloader.sampler": {"type": "InfiniteSampler", "shuffle": True},
    "train_dataloader.dataset.pipeline": [
        *(LOAD, LABELS),
        {"type": "RandomChoiceResize", "scales": SCALES, "resize_type": "Resize", "keep_ratio": True},
        *(FLIP, PACK),
    ],
    "test_dataloader.dataset.pipeline": [
        LOAD,
        {
            "type": "TestTimeAug",
            "transforms": [
                [{"type": "Resize", "scale": scale, "keep_ratio": True} for scale in SCALES],
                [{"type": "ResizeToMultiple", "size_divisor": 32}],
                *([LABELS], [PACK]),
            ],
        },
    ],
    "tta_model": {"type": "SegTTAModel"},
    "auto_scale_lr": {"enable": False, "base_batch_size": 2},
    "optim_wrapper": {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.0001},
        "paramwise_cfg": {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0},
    },
    "param_scheduler": [
        {"type": "PolyLR", "power": 0.9, "eta_min": 0.0, "begin": 0, "end": 150_000, "by_epoch": False}
    ],
    "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 150_000},
}
# open-mmlab/mmsegmentation, upernet_r50_4xb4-160k_ade20k-512x512
MMSEG: dict[str, Any] = {
    "model": SEGMENTOR
    | {
        "data_preprocessor": PREPROCESSOR | {"size": [512, 512]},
        "backbone": BACKBONE | {"norm_cfg": SYNC},
        "decode_head": UPER_HEAD | {"norm_cfg": SYNC, "dropout_ratio": 0.1, "loss_decode": CROSS_ENTROPY},
        "auxiliary_head": {
            "type": "FCNHead",
            "in_channels": 1024,
            "in_index": 2,
            "channels": 256,
            "num_convs": 1,
            "concat_input": False,
            "dropout_ratio": 0.1,
            "num_classes": 150,
            "norm_cfg": SYNC,
            "align_corners": False,
            "loss_decode": CROSS_ENTROPY | {"loss_weight": 0.4},
        },
    },
    "train_dataloader.batch_size": 4,
    "train_dataloader.sampler": {"type": "InfiniteSampler", "shuffle": True},
    "train_dataloader.dataset.pipeline": [
        *(LOAD, LABELS),
        {"type": "RandomResize", "scale": [2048, 512], "ratio_range": [0.5, 2.0], "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": [512, 512], "cat_max_ratio": 0.75},
        *(FLIP, {"type": "PhotoMetricDistortion"}, PACK),
    ],
    "test_dataloader.dataset.pipeline": [
        *(LOAD, {"type": "Resize", "scale": [2048, 512], "keep_ratio": True}, LABELS, PACK)
    ],
    "auto_scale_lr": {"enable": False, "base_batch_size": 16},
    "optim_wrapper": {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
    },
    "param_scheduler": [
        {"type": "PolyLR", "power": 0.9, "eta_min": 0.0001, "begin": 0, "end": 160_000, "by_epoch": False}
    ],
    "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 160_000},
}
FROZEN = CSAIL | {
    "model": CSAIL["model"] | {"backbone": CSAIL["model"]["backbone"] | {"frozen_stages": 4, "norm_eval": True}}
}


def shortened(iterations: int) -> dict[str, Any]:
    schedule = MMSEG["param_scheduler"][0] | {"end": iterations}
    return MMSEG | {
        "param_scheduler": [schedule],
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations},
    }


PUBLISHED = {
    "csail": CSAIL,
    "frozen": FROZEN,
    "mmseg160k": MMSEG,
    "mmseg80k": shortened(80_000),
    "short": shortened(20_000),
}


@functools.cache
def checkpoint(arch: str, pixels: Pixels) -> Checkpoint:
    backbone = build_backbone(arch).state_dict()
    return Checkpoint(arch, backbone, pixels, Source("simsiam", "online", None, None, None, None, "0"))


def plan(protocol: str = "csail", arch: str = "resnet50", classes: int = 150, **changes: Any) -> Plan:
    return build_plan(
        "sample" if protocol == "sample" else changes.pop("dataset", "ade20k"),
        protocol,
        checkpoint(arch, changes.pop("pixels", Pixels(224))),
        Path(changes.pop("weights", "backbone.pth")),
        Path(changes.pop("root", "data/ADEChallengeData2016")),
        [f"class {at}" for at in range(classes)],
        [(at, 0, 0) for at in range(classes)],
        **{"world_size": 1} | changes,
    )


def at(config: Any, key: str) -> Any:
    """What stands at a dotted key, in JSON's types."""
    for name in key.split("."):
        config = config[name]
    return json.loads(json.dumps(config))


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its dotted key, lists by number."""
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not below:
        yield key, node
    for name, value in below:
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def plain(config: Any, *parts: str) -> dict[str, Any]:
    return dict(leaves({part: at(config, part) for part in parts if part in config}))


@functools.cache
def segmentor(protocol: str, arch: str = "resnet50", *options: str) -> Any:
    """Without memory for its weights: enough to see what it consists of."""
    with quiet(), torch.device("meta"):
        return MODELS.build(plan(protocol, arch, options=options).config.model)


@pytest.mark.parametrize("protocol", ADE)
def test_protocol_has_the_published_values(protocol: str) -> None:
    found, expected = read_protocol("ade20k", protocol), PUBLISHED[protocol]
    assert {key: at(found, key) for key in expected} == expected
    assert found.default_scope == "mmseg"
    for loader, split in (("train_dataloader", "training"), ("test_dataloader", "validation")):
        assert found[loader].dataset.type == "ADE20KDataset"
        assert found[loader].dataset.data_root == "data/ADEChallengeData2016"
        assert found[loader].dataset.data_prefix == {
            "img_path": f"images/{split}",
            "seg_map_path": f"annotations/{split}",
        }


@pytest.mark.parametrize("protocol", ADE)
def test_command_adds_nothing_but_the_weights_and_the_batch_of_the_protocol(protocol: str) -> None:
    expected = copy.deepcopy(PUBLISHED[protocol])
    weights = {"type": "Pretrained", "checkpoint": "backbone.pth", "prefix": "backbone."}
    expected["model"]["backbone"]["init_cfg"] = weights
    expected["train_dataloader.batch_size"] = expected["auto_scale_lr"]["base_batch_size"]
    planned = plan(protocol)
    assert {key: at(planned.config, key) for key in expected} == expected
    assert (planned.protocol, planned.changes) == (protocol, ())
    assert planned.iterations == expected["train_cfg"]["max_iters"]
    assert planned.tests_at_several_scales == (protocol in ("csail", "frozen"))
    assert not planned.amp


# by key, of MMSegmentation's file and of ours; None where one has no such key
DIFFERENCES = {
    "model.pretrained": ("open-mmlab://resnet50_v1c", None),
    "model.backbone.type": ("ResNetV1c", "ResNet"),
    "train_dataloader.dataset.data_root": ("data/ade/ADEChallengeData2016", "data/ADEChallengeData2016"),
    "test_dataloader.dataset.data_root": ("data/ade/ADEChallengeData2016", "data/ADEChallengeData2016"),
    # ADE20KDataset says the same; see the test of labels below
    "train_dataloader.dataset.pipeline.1.reduce_zero_label": (True, None),
    "test_dataloader.dataset.pipeline.2.reduce_zero_label": (True, None),
    "model.backbone.contract_dilation": (True, None),  # nothing is dilated
    # validation is at the end only, and in processes that need not persist
    "train_cfg.val_interval": (16_000, None),
    "test_dataloader.persistent_workers": (True, None),
}
# MMSegmentation's file spells these out
DEFAULTS = {
    "model.backbone.dilations": (ResNet, [1, 1, 1, 1]),
    "model.backbone.strides": (ResNet, [1, 2, 2, 2]),
    "model.backbone.deep_stem": (ResNet, False),
    "optim_wrapper.clip_grad": (OptimWrapper, None),
}


@pytest.mark.parametrize(("protocol", "val_interval"), [("mmseg160k", 16_000), ("mmseg80k", 8_000)])
def test_standard_protocols_are_mmsegmentations_but_for_named_differences(protocol: str, val_interval: int) -> None:
    with quiet():
        official = Config.fromfile(OFFICIAL / f"upernet_r50_4xb4-{protocol.removeprefix('mmseg')}_ade20k-512x512.py")
    parts = (*PARTS, "tta_model", "tta_pipeline", "default_scope")
    theirs, ours = plain(official, *parts), plain(read_protocol("ade20k", protocol), *parts)
    for key, (owner, value) in DEFAULTS.items():
        default = inspect.signature(owner).parameters[key.rpartition(".")[2]].default
        assert json.loads(json.dumps(default)) == value
        for side in (theirs, ours):
            side |= dict(leaves(value, key))
    found = {key: (theirs.get(key), ours.get(key)) for key in theirs | ours if theirs.get(key) != ours.get(key)}
    assert found == DIFFERENCES | {"train_cfg.val_interval": (val_interval, None)}
    assert official.env_cfg.cudnn_benchmark == read_protocol("ade20k", protocol).env_cfg.cudnn_benchmark


def test_sample_is_the_papers_protocol_in_miniature() -> None:
    sample, csail = read_protocol("sample", "sample"), read_protocol("ade20k", "csail")
    assert sample.model.decode_head.loss_decode == csail.model.decode_head.loss_decode
    assert sample.optim_wrapper.paramwise_cfg == csail.optim_wrapper.paramwise_cfg
    assert sample.model.decode_head.channels == 64
    assert sample.model.backbone.norm_cfg.type == "BN"
    assert sample.train_dataloader.dataset.reduce_zero_label, "label 0 is no class"
    assert sample.param_scheduler[0].end == sample.train_cfg.max_iters


def test_every_file_is_a_protocol_or_the_base_of_all() -> None:
    assert protocols("ade20k") == ADE
    assert protocols("sample") == ("sample",)
    assert {*ADE, "sample", "upernet"} == {path.stem for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_file_says_where_it_comes_from_and_names_no_weights(path: Path) -> None:
    text = path.read_text()
    assert "# Source:" in text
    assert Config.fromfile(path).model.get("pretrained") is None
    assert "checkpoint=" not in text.replace("checkpoint=dict(", "")
    if path.stem != "upernet":
        assert "# Expected" in text
        assert "# Command: python transfer/segmentation.py" in text
        assert ("Not run by this project." in text) == (path.stem != "sample")


def test_every_state_is_kept_that_a_resumed_run_or_a_damaged_one_needs() -> None:
    for protocol in ADE:
        hook = read_protocol("ade20k", protocol).default_hooks.checkpoint
        assert (hook.by_epoch, hook.max_keep_ckpts, hook.interval) == (False, 2, 5000)
    assert inspect.signature(CheckpointHook).parameters["save_last"].default is True


def test_upernet_without_auxiliary_head_has_the_published_size() -> None:
    model = segmentor("csail")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 64.10
    assert not model.with_auxiliary_head
    assert model.decode_head.dropout is None


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet101"])
@pytest.mark.parametrize("protocol", [*ADE, "sample"])
def test_segmentor_of_every_protocol_is_on_the_checkpoints_backbone(protocol: str, arch: str) -> None:
    model, backbone = segmentor(protocol, arch), checkpoint(arch, Pixels(224)).backbone
    shapes = {name: tensor.shape for name, tensor in model.backbone.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in backbone.items()}
    with torch.device("meta"):
        model.decode_head(model.backbone(torch.zeros(2, 3, 64, 64)))
        assert model.with_auxiliary_head == ("mmseg" in protocol or protocol == "short")
        if model.with_auxiliary_head:
            model.auxiliary_head(model.backbone(torch.zeros(2, 3, 64, 64)))


def test_frozen_backbone_neither_trains_nor_moves_its_statistics() -> None:
    for protocol, trains in (("csail", True), ("frozen", False)):
        model = segmentor(protocol).train()
        assert {parameter.requires_grad for parameter in model.backbone.parameters()} == {trains}
        norms = [module for module in model.backbone.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert {norm.training for norm in norms} == {trains}
        assert all(parameter.requires_grad for parameter in model.decode_head.parameters())


def test_norms_and_biases_do_not_decay_in_the_papers_protocol_and_do_in_the_standard_one() -> None:
    for protocol, decay, spared in (("csail", 1e-4, 0.0), ("mmseg160k", 5e-4, 5e-4)):
        model = segmentor(protocol)
        groups = build_optim_wrapper(model, copy.deepcopy(plan(protocol).config.optim_wrapper)).optimizer.param_groups
        found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        for name, parameter in model.named_parameters():
            expected = spared if parameter.ndim == 1 else decay  # biases, and scales and shifts of norms
            assert found[id(parameter)] == pytest.approx(expected), name


@functools.cache
def sample_segmentor() -> Any:
    torch.manual_seed(0)
    with quiet():
        return MODELS.build(plan("sample", "resnet18", classes=11).config.model)


def labelled(height: int, width: int, classes: int, seed: int = 0) -> dict[str, Any]:
    """An image in BGR with labels of which some are void."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (1, height, width), generator=draw)
    labels[:, :3] = 255
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo({"img_shape": (height, width), "ori_shape": (height, width), "img_path": "x.jpg"})
    pixels = torch.randint(0, 256, (3, height, width), generator=draw, dtype=torch.uint8)
    return {"inputs": pixels, "data_samples": sample}


def batch(*samples: dict[str, Any]) -> dict[str, Any]:
    return {name: [sample[name] for sample in samples] for name in ("inputs", "data_samples")}


def test_sample_segmentor_trains_a_step() -> None:
    model = copy.deepcopy(sample_segmentor()).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = build_optim_wrapper(model, copy.deepcopy(plan("sample", "resnet18").config.optim_wrapper))
    losses = model.train_step(batch(labelled(64, 64, 11), labelled(64, 64, 11, seed=1)), optimizer)
    assert losses["loss"].isfinite()
    unmoved = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []


@pytest.mark.parametrize(
    ("options", "padding"), [((), 255), (("model.data_preprocessor.seg_pad_val=0",), 0)], ids=["void", "wall"]
)
def test_padding_of_a_batch_is_void_or_wall_as_the_reference_has_it(options: tuple[str, ...], padding: int) -> None:
    model = segmentor("csail", "resnet50", *options)
    samples = labelled(40, 60, 150), labelled(70, 50, 150, seed=1)
    preprocess = MODELS.build(plan(options=options).config.model.data_preprocessor)
    data = preprocess(copy.deepcopy(batch(*samples)), True)
    assert data["inputs"].shape == (2, 3, 96, 64), "both to a multiple of 32"
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
    for padded, pixels, sample in zip(labels, data["inputs"], samples, strict=True):
        height, width = sample["inputs"].shape[1:]
        assert torch.equal(padded[:height, :width], sample["data_samples"].gt_sem_seg.data[0])
        outside = torch.ones(96, 64, dtype=torch.bool)
        outside[:height, :width] = False
        assert (padded[outside] == padding).all()
        assert (pixels[:, outside] == 0).all(), "the mean, behind the normalisation"
    logits = torch.randn(2, 150, 24, 16, generator=torch.Generator().manual_seed(3))
    loss = model.decode_head.loss_by_feat(logits, data["data_samples"])["loss_ce"]
    assert loss == pytest.approx(mean_cross_entropy(logits, labels).item(), rel=1e-5)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of all pixels that have a label, logits at the labels' size."""
    large = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, labels, ignore_index=255)


def test_standard_protocol_divides_its_loss_by_void_pixels_too() -> None:
    """MMSegmentation's default, which csail must not have: with half of the pixels void it halves the loss."""
    samples = [labelled(64, 64, 150)["data_samples"]]
    samples[0].gt_sem_seg.data[:, 32:] = 255
    logits = torch.randn(1, 150, 16, 16, generator=torch.Generator().manual_seed(3))
    mean = mean_cross_entropy(logits, samples[0].gt_sem_seg.data).item()
    labelled_share = 29 / 64  # rows of the image
    for protocol, share in (("csail", 1), ("mmseg160k", labelled_share)):
        loss = segmentor(protocol).decode_head.loss_by_feat(logits, samples)["loss_ce"]
        assert loss == pytest.approx(mean * share, rel=1e-5)


def test_padding_of_a_tested_image_is_removed_before_it_is_compared() -> None:
    model = sample_segmentor().eval()
    image = labelled(40, 60, 11)
    with torch.no_grad():
        [found] = model.test_step(copy.deepcopy(batch(image)))
        data = model.data_preprocessor(copy.deepcopy(batch(image)))
        assert data["inputs"].shape == (1, 3, 64, 64)
        logits = model.decode_head(model.backbone(data["inputs"]))
    large = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)[0, :, :40, :60]
    torch.testing.assert_close(found.seg_logits.data, large)
    assert found.pred_sem_seg.shape == found.gt_sem_seg.shape == (40, 60)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image of ADE20K's usual size, its labels, and the record of both."""
    folder = tmp_path_factory.mktemp("scene")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (512, 683, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(draw.integers(0, 151, (512, 683), np.uint8)).save(folder / "a.png")
    return {"img_path": str(folder / "a.jpg"), "seg_map_path": str(folder / "a.png"), "seg_fields": []}


def test_papers_protocol_validates_at_five_sizes_of_whole_strides_against_labels_as_they_are(
    scene: dict[str, Any],
) -> None:
    with quiet():
        pipeline = Compose(plan().config.test_dataloader.dataset.pipeline)
    packed = pipeline(scene | {"reduce_zero_label": True})
    sizes = [tuple(pixels.shape[1:]) for pixels in packed["inputs"]]
    # 300 x 400, 375 x 500, 450 x 600, 525 x 700 and 600 x 800, rounded up to multiples of 32
    assert sizes == [(320, 416), (384, 512), (480, 608), (544, 704), (608, 800)]
    assert {sample.get("flip", False) for sample in packed["data_samples"]} == {False}
    assert {sample.ori_shape for sample in packed["data_samples"]} == {(512, 683)}
    with Image.open(scene["seg_map_path"]) as image:
        labels = np.asarray(image).astype(int)
    expected = np.where(labels == 0, 255, labels - 1)
    for sample in packed["data_samples"]:
        assert (sample.gt_sem_seg.data[0].numpy() == expected).all()


def test_long_images_have_their_long_side_at_most_1000(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 300)).save(tmp_path / "long.png")
    with quiet():
        sizes = Compose(plan().config.train_dataloader.dataset.pipeline[2:3])
        load = Compose(plan().config.train_dataloader.dataset.pipeline[:1])
    for seed in range(5):
        np.random.seed(seed)  # noqa: NPY002 - the transform draws there
        shape = sizes(load({"img_path": str(tmp_path / "long.png")}))["img"].shape[:2]
        assert shape == (250, 1000)


def test_training_images_have_one_of_five_short_sides_and_keep_their_ratio(scene: dict[str, Any]) -> None:
    with quiet():
        pipeline = Compose(plan().config.train_dataloader.dataset.pipeline)
    seen = set()
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002 - the transform draws there
        packed = pipeline(scene | {"reduce_zero_label": True})
        assert packed["inputs"].shape[1:] == packed["data_samples"].gt_sem_seg.shape
        seen.add(tuple(packed["inputs"].shape[1:]))
    assert seen == {(300, 400), (375, 500), (450, 600), (525, 700), (600, 800)}


@pytest.mark.filterwarnings("ignore:The shape of value will convert")  # MMSegmentation's own merged prediction
def test_validation_at_several_sizes_is_the_mean_of_the_softmax() -> None:
    model = sample_segmentor().eval()
    images = [labelled(64, 96, 11), labelled(32, 64, 11, seed=1)]
    images[1]["data_samples"].set_metainfo({"ori_shape": (64, 96)})
    tested = MODELS.build({**plan().config.tta_model, "module": model})
    with torch.no_grad():
        [merged] = tested.test_step({name: [[image[name]] for image in images] for name in images[0]})
        views = [model.test_step(copy.deepcopy(batch(image)))[0].seg_logits.data.softmax(0) for image in images]
    assert torch.equal(merged.pred_sem_seg.data[0], (views[0] + views[1]).argmax(0))


def test_tta_is_mmsegmentations_six_sizes_mirrored_and_not() -> None:
    planned = plan("mmseg160k", tta=True)
    [load, several] = planned.config.test_dataloader.dataset.pipeline
    assert load == LOAD
    assert [step["scale_factor"] for step in several.transforms[0]] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [step["prob"] for step in several.transforms[1]] == [0, 1]
    assert planned.tests_at_several_scales
    assert planned.protocol == "mmseg160k, tta"
    assert planned.protocol_hash != plan("mmseg160k").protocol_hash


def test_labels_are_read_the_same_with_and_without_what_mmsegmentations_file_repeats(scene: dict[str, Any]) -> None:
    pipeline = plan("mmseg160k").config.train_dataloader.dataset.pipeline
    with quiet():
        dataset = DATASETS.build({"type": "ADE20KDataset", "lazy_init": True})
        record = scene | {"reduce_zero_label": dataset.reduce_zero_label}
        ours = Compose([pipeline[1]])(dict(record))["gt_seg_map"]
        theirs = Compose([{**pipeline[1], "reduce_zero_label": True}])(dict(record))["gt_seg_map"]
    assert (ours == theirs).all()
    assert set(np.unique(ours)) == {*range(150), 255}


@pytest.mark.parametrize(
    ("protocol", "total", "rate", "last", "iterations", "interval"),
    [  # csail: .02 * B / 2 and 300,000 images; mmseg: .01 * B / 16, 1e-4 * B / 16, and 2,560,000 or 1,280,000 images
        ("csail", 4, 0.04, 0.0, 75_000, 2500),
        ("csail", 16, 0.16, 0.0, 18_750, 625),
        ("csail", 3, 0.03, 0.0, 100_000, 3333),
        ("csail", 1, 0.01, 0.0, 300_000, 10_000),
        ("mmseg160k", 8, 0.005, 0.00005, 320_000, 10_000),
        ("mmseg160k", 32, 0.02, 0.0002, 80_000, 2500),
        ("mmseg80k", 2, 0.00125, 0.0000125, 640_000, 40_000),
    ],
)
def test_rescaling_keeps_the_number_of_images(
    protocol: str, total: int, rate: float, last: float, iterations: int, interval: int
) -> None:
    config = read_protocol("ade20k", protocol)
    assert rescale(config, total)
    [schedule] = config.param_scheduler
    assert config.optim_wrapper.optimizer.lr == pytest.approx(rate, rel=1e-12)
    assert schedule.eta_min == pytest.approx(last, rel=1e-12)
    assert (config.train_cfg.max_iters, schedule.end) == (iterations, iterations)
    assert config.default_hooks.checkpoint.interval == interval


def test_rescaled_protocol_says_so_and_has_another_hash() -> None:
    rescaled = plan("mmseg160k", batch_size=8)
    assert rescaled.protocol == "mmseg160k, batch 8"
    assert rescaled.changes == (
        "batch 16 -> 8, learning rate 0.01 -> 0.005 (at the end 0.0001 -> 5e-05), iterations 160000 -> 320000",
    )
    assert plan(batch_size=4).changes == ("batch 2 -> 4, learning rate 0.02 -> 0.04, iterations 150000 -> 75000",)
    assert rescaled.protocol_hash != plan("mmseg160k").protocol_hash
    assert (rescaled.settings["batch_size"], plan("mmseg160k").settings["batch_size"]) == (8, 16)
    unchanged = plan("mmseg160k", batch_size=16)
    assert (unchanged.protocol_hash, unchanged.changes) == (plan("mmseg160k").protocol_hash, ())


def test_processes_share_a_batch_without_changing_the_protocol() -> None:
    four = plan("mmseg160k", world_size=4)
    assert (four.config.train_dataloader.batch_size, four.batch_size) == (4, 16)
    assert four.protocol_hash == plan("mmseg160k").protocol_hash
    assert plan(world_size=2).config.train_dataloader.batch_size == 1
    assert plan(world_size=4, batch_size=8).config.train_dataloader.batch_size == 2


def test_pixels_depth_and_widths_are_the_checkpoints() -> None:
    simclr = Pixels(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # SimCLR's weights expect pixels in 0..1
    model = plan("mmseg160k", arch="resnet18", pixels=simclr, weights="there/b.pth").config.model
    assert (list(model.data_preprocessor.mean), list(model.data_preprocessor.std)) == ([0] * 3, [255] * 3)
    assert (model.backbone.depth, list(model.decode_head.in_channels)) == (18, [64, 128, 256, 512])
    assert model.auxiliary_head.in_channels == 256
    assert model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "there/b.pth", "prefix": "backbone."}
    assert model.backbone.norm_cfg.type == "SyncBN", "how norms train is the protocol's"


def test_classes_and_colours_are_the_datas() -> None:
    config = plan("sample", classes=11, root="scenes").config
    assert config.model.decode_head.num_classes == 11
    for loader in (config.train_dataloader, config.test_dataloader):
        assert loader.dataset.data_root == "scenes"
        assert len(loader.dataset.metainfo["classes"]) == 11
        assert loader.dataset.metainfo["palette"][10] == [10, 0, 0]


def test_mixed_precision_scales_the_loss_as_needed() -> None:
    planned = plan(amp=True)
    assert planned.amp
    assert at(planned.config, "optim_wrapper") == CSAIL["optim_wrapper"] | {
        "type": "AmpOptimWrapper",
        "loss_scale": "dynamic",
    }
    assert planned.protocol == "csail, amp"
    assert planned.protocol_hash != plan().protocol_hash


# by the last names of a key: what belongs to the checkpoint or to the place where a run computes
FREE = (
    *("data_root", "num_workers", "persistent_workers", "shuffle", "mean", "std", "bgr_to_rgb", "depth"),
    "palette",
    *("checkpoint", "prefix"),
)
FREE_KEYS = ("train_dataloader.batch_size", "test_dataloader.batch_size", "model.backbone.init_cfg.type")


def is_free(key: str) -> bool:
    names = key.split(".")
    return bool(set(names) & set(FREE)) or key in FREE_KEYS or "sampler" in names or "in_channels" in names


@pytest.mark.parametrize("protocol", ["csail", "mmseg160k", "sample"])
def test_hash_changes_with_every_setting_and_not_with_checkpoint_or_place(protocol: str) -> None:
    planned = plan(protocol, classes=3)
    changed = {}
    for key in plain(planned.config, *PARTS):
        config = copy.deepcopy(planned.config)
        node: Any = config
        *path, last = (int(name) if name.isdecimal() else name for name in key.split("."))
        for name in path:
            node = node[name]
            if isinstance(node, tuple):
                break
        else:
            node[last] = "another"
            changed[key] = dataclasses.replace(planned, config=config).protocol_hash != planned.protocol_hash
    assert len(changed) > 60
    assert {key for key, differs in changed.items() if differs == is_free(key)} == set()


def test_identity_is_also_of_the_checkpoints_pixels_and_not_of_its_path() -> None:
    simclr = plan(pixels=Pixels(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert simclr.settings == plan().settings
    assert simclr.identity != plan().identity
    assert plan(arch="resnet18").settings == plan().settings
    assert plan(arch="resnet18").identity != plan().identity
    elsewhere = plan(weights="else/where.pth", root="else", world_size=2, options=("env_cfg.cudnn_benchmark=True",))
    assert elsewhere.identity == plan().identity


def test_command_in_the_header_of_csail_is_the_references_batch_of_4() -> None:
    header = (FOLDER / "csail.py").read_text()
    options = [word for word in header.split() if "=" in word and word.startswith(("optim_", "train_cfg", "param_"))]
    config = plan(batch_size=4, world_size=2, options=options[:3]).config
    assert (config.train_dataloader.batch_size, config.optim_wrapper.optimizer.lr) == (2, 0.02)
    assert (config.train_cfg.max_iters, config.param_scheduler[0].end) == (150_000, 150_000)


def test_options_reach_mmengine_unchanged_and_are_recorded() -> None:
    options = (
        *("optim_wrapper.optimizer.lr=0.01", "model.backbone.frozen_stages=2", "model.decode_head.pool_scales=(1,2)"),
        *("model.decode_head.norm_cfg._delete_=True", "model.decode_head.norm_cfg.type=GN"),
        *("model.decode_head.norm_cfg.num_groups=4", "train_dataloader.dataset.pipeline.2.scales=[(500,200)]"),
        *("model.data_preprocessor.test_cfg.size_divisor=32", "optim_wrapper.clip_grad.max_norm=1"),
        "optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1",
    )
    changed = plan(options=options, batch_size=4)
    config = changed.config
    assert config.optim_wrapper.optimizer.lr == 0.01, "after the batch"
    assert config.model.backbone.frozen_stages == 2
    assert config.model.decode_head.pool_scales == (1, 2)
    assert config.model.decode_head.norm_cfg == {"type": "GN", "num_groups": 4}
    assert config.train_dataloader.dataset.pipeline[2].scales == [(500, 200)]
    assert config.model.data_preprocessor.test_cfg.size_divisor == 32
    assert config.optim_wrapper.clip_grad == {"max_norm": 1}
    assert config.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    assert changed.protocol == "csail, batch 4, options"
    assert changed.changes[-1] == f"--cfg-options {' '.join(options)}"
    assert changed.protocol_hash != plan(batch_size=4).protocol_hash


def test_shorter_training_on_an_unchanged_schedule_is_told() -> None:
    told = plan(options=("train_cfg.max_iters=100",)).changes[-1]
    assert told == "the schedule of the rate ends at iteration 150000, training at 100"
    assert len(plan(options=("train_cfg.max_iters=100", "param_scheduler.0.end=100")).changes) == 1


def test_reading_in_the_same_process_needs_one_option_only() -> None:
    config = plan(options=("train_dataloader.num_workers=0", "test_dataloader.num_workers=0")).config
    assert not config.train_dataloader.persistent_workers
    torch.utils.data.DataLoader([0], num_workers=0, persistent_workers=config.train_dataloader.persistent_workers)


def test_auxiliary_head_can_be_left_out() -> None:
    options = ("model.auxiliary_head=None",)
    planned = plan("mmseg160k", options=options)
    assert planned.protocol_hash != plan("mmseg160k").protocol_hash
    assert not segmentor("mmseg160k", "resnet50", *options).with_auxiliary_head


DEEP = "the checkpoint has a 7x7 stem .*three convolutions or others would stay random"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("model.backbone.type=ResNetV1c", f"expected plain ResNet, got ResNetV1c: {DEEP}"),
        ("model.backbone.type=ResNetV1d", f"expected plain ResNet, got ResNetV1d: {DEEP}"),
        ("model.backbone.deep_stem=True", f"expected plain ResNet, got ResNet, deep_stem=True: {DEEP}"),
        ("model.backbone.type=MobileNetV2", f"expected plain ResNet, got MobileNetV2: {DEEP}"),
        ("model.decode_head.channels", "expected key=value, got 'model.decode_head.channels'"),
        ("=3", "expected key=value, got '=3'"),
        ("model..channels=3", "expected key=value, got 'model..channels=3'"),
        ("optim_wraper.optimizer.lr=3", "unknown key of --cfg-options 'optim_wraper'; did you mean 'optim_wrapper'"),
        ("val_evaluator.type=x", "unknown key of --cfg-options 'val_evaluator'.* choose from: default_hooks, env_cfg"),
        ("norm_cfg.type=BN", "norm_cfg is no key.*; set model.backbone.norm_cfg and model.decode_head.norm_cfg"),
        ("train_pipeline.0.type=x", "train_pipeline is no key.*; set train_dataloader.dataset.pipeline"),
        ("tta_pipeline.0.type=x", "tta_pipeline is no key.*; set test_dataloader.dataset.pipeline, which --tta"),
        ("optimizer.lr=1", "optimizer is no key.*; set optim_wrapper.optimizer"),
        ("work_dir=x", "work_dir is set by --output; use that"),
        ("randomness.seed=1", "randomness.seed is set by --seed; use that"),
        ("load_from=x", "load_from is set by --ckpt; use that"),
        ("resume=True", "resume is set by --resume; use that"),
        ("launcher=pytorch", "launcher is set by torchrun; use that"),
        ("auto_scale_lr.enable=True", "auto_scale_lr.enable is set by --batch-size; use that"),
        ("train_dataloader.batch_size=8", "train_dataloader.batch_size is set by --batch-size; use that"),
        ("train_dataloader.dataset.data_root=x", "train_dataloader.dataset.data_root is set by --data-root; use that"),
        ("data_root=x", "data_root is set by --data-root; use that"),
        ("model.pretrained=x", "model.pretrained is set by --ckpt; use that"),
        ("model.backbone.init_cfg.checkpoint=x", "model.backbone.init_cfg.checkpoint is set by --ckpt; use that"),
        ("model.backbone.depth=18", "model.backbone.depth is set by --ckpt; use that"),
        ("model.data_preprocessor.mean=[0,0,0]", "model.data_preprocessor.mean is set by --mean; use that"),
        ("model.data_preprocessor.bgr_to_rgb=False", "model.data_preprocessor.bgr_to_rgb is set by --ckpt; use that"),
        ("model.decode_head.num_classes=3", "model.decode_head.num_classes is set by --dataset; use that"),
        ("optim_wrapper.type=AmpOptimWrapper", "optim_wrapper.type is set by --amp; use that"),
        ("model.backbone._delete_=True", "model.backbone._delete_ would delete what other flags have set"),
        ("train_dataloader.sampler.shuffle=False", "train_dataloader.sampler.shuffle would change nothing here, or"),
        ("train_cfg.type=EpochBasedTrainLoop", "train_cfg.type would change nothing here, or break the run"),
        ("tta_model.type=x", "tta_model.type would change nothing here"),
        ("train_cfg.max_iter=3", "unknown key of train_cfg 'max_iter'; did you mean 'max_iters'"),
        ("train_cfg.val_interval=3", "unknown key of train_cfg 'val_interval'; choose from: max_iters"),
        ("env_cfg.cudnn_bench=True", "unknown key of env_cfg 'cudnn_bench'; did you mean 'cudnn_benchmark'"),
        ("default_hooks.logger.interval=3", "unknown key of default_hooks 'logger'"),
        ("default_hooks.checkpoint.by_epoch=True", "unknown key of default_hooks.checkpoint 'by_epoch'"),
        ("train_dataloader.num_worker=3", "unknown key of train_dataloader 'num_worker'; did you mean 'num_workers'"),
        ("train_dataloader.dataset.img_suffix=.png", "unknown key of train_dataloader.dataset 'img_suffix'"),
        ("optim_wrapper.paramwise_cfg.nrom_decay_mult=0", "'nrom_decay_mult'; did you mean 'norm_decay_mult'"),
        ("optim_wrapper.paramwise_cfg.custom_keys.backbone.lr=0", "unknown key of .*custom_keys.backbone 'lr'"),
        ("optim_wrapper.paramwise_cfg.custom_keys.backbone=0", "custom_keys.backbone consists of parts"),
        ("optim_wrapper.clip_grad.max_nrom=1", "'max_nrom'; did you mean 'max_norm'"),
        ("model.test_cfg.mod=whole", "unknown key of model.test_cfg 'mod'; did you mean 'mode'"),
        ("model.data_preprocessor.test_cfg.divisor=32", "unknown key of model.data_preprocessor.test_cfg 'divisor'"),
        ("model.backbone=ResNet", "model.backbone consists of parts; set those, by model.backbone.PART=value"),
        ("param_scheduler=None", "param_scheduler consists of parts"),
        ("param_scheduler.1.end=3", "param_scheduler.1: expected a number below 1 in place of 1"),
        ("train_dataloader.dataset.pipeline.2.scales.0=(1,2)", "which has no 0; set it as a whole"),
        ("optim_wrapper.optimizer.lr.x=1", "optim_wrapper.optimizer.lr is 0.02, which has no x; set it as a whole"),
        ("optim_wrapper.optimizer.lr=high", "lr is 0.02; expected a value of the same type, got 'high'"),
        ("train_cfg.max_iters=1e3", "max_iters is 150000; expected a value of the same type, got 1000.0"),
        ("train_cfg.max_iters=True", "max_iters is 150000; expected a value of the same type, got True"),
        ("train_cfg.max_iters=-1", "train_cfg.max_iters: expected 0 or more, got -1"),
        ("model.decode_head.loss_decode.class_weight=[(1,2", "MMEngine cannot read .*Imbalanced brackets"),
        (
            "optim_wrapper.optimizer.lrr=1",
            "MMEngine cannot use optim_wrapper.optimizer.lrr=1 .*argument 'lrr'.*; look",
        ),
        ("optim_wrapper.optimizer.type=Adan", "MMEngine cannot use optim_wrapper.optimizer.type=Adan "),
        ("optim_wrapper.optimizer.lr=-1", "MMEngine cannot use .*Invalid learning rate: -1"),
        ("optim_wrapper.clip_grad.foreach=True", "MMEngine cannot use .*'max_norm'"),
        ("param_scheduler.0.foo=1", "MMEngine cannot use param_scheduler.0.foo=1 .*argument 'foo'"),
        ("train_dataloader.dataset.pipeline.3.prb=0.5", "MMEngine cannot use .*argument 'prb'"),
        ("test_dataloader.dataset.pipeline.1.transforms.0.0.scal=(2,3)", "MMEngine cannot use .*'scal'"),
    ],
)
def test_option_without_effect_is_refused_in_one_sentence(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan(options=options.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [*ADE, "sample"])
def test_every_name_of_a_file_is_refused_with_a_way_out(protocol: str) -> None:
    for name in Config.fromfile(FOLDER / f"{protocol}.py"):
        with pytest.raises(InputError, match=f"--cfg-options: {name} (is |consists |would )"):
            plan(protocol, options=(f"{name}=1",))


def untyped(node: Any, key: str = "") -> Iterator[str]:
    """Every part without a constructor that would refuse an unknown name."""
    if isinstance(node, dict) and key and "type" not in node:
        yield key
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from untyped(value, f"{key}.{name}" if key else str(name))


@pytest.mark.parametrize("protocol", [*ADE, "sample"])
def test_no_part_takes_an_unknown_key_in_silence(protocol: str) -> None:
    parts = list(untyped(Config.fromfile(FOLDER / f"{protocol}.py").to_dict()))
    assert len(parts) > 5
    for part in parts:
        with pytest.raises(InputError, match=r"--cfg-options|unknown key of"):
            plan(protocol, options=(f"{part}.nonsense=1",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "csial"}, "unknown protocol of ade20k 'csial'; did you mean 'csail'"),
        ({"protocol": "csail", "dataset": "sample"}, "unknown protocol of sample 'csail'"),
        ({"protocol": "upernet"}, "unknown protocol of ade20k 'upernet'"),
        ({"batch_size": 0}, "--batch-size: expected 1 or more, got 0"),
        ({"world_size": 4}, "expected a batch that 4 processes can share, got 2; use a --batch-size that 4 divides"),
        ({"batch_size": 5, "world_size": 2}, "expected a batch that 2 processes can share, got 5"),
        ({"tta": True}, "--tta: csail validates at several scales already; leave it out"),
        ({"protocol": "sample", "tta": True}, "--tta: sample has no second way to validate; leave it out"),
        ({"arch": "resnet18_cifar"}, "no segmentor for this checkpoint: .*7x7 stem.*resnet18_cifar; give one of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan(**changes)
    assert "\n" not in str(caught.value)


OURS = {"onedl-mmsegmentation": "1.4.2", "onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6"}
UPSTREAM = {"mmsegmentation": "1.2.2", "mmengine": "0.10.7", "mmcv-lite": "2.1.0"}


def test_maintained_packages_are_accepted_whatever_else_is_installed() -> None:
    assert check_packages(OURS | {"torch": "2.9"}) == OURS


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({}, "expected onedl-mmsegmentation, onedl-mmengine, onedl-mmcv, got none; run make setup"),
        ({"onedl-mmcv": "2.3.6"}, "got onedl-mmcv 2.3.6; run make setup"),
        (UPSTREAM, "got mmsegmentation 1.2.2, .*: upstream's mmsegmentation needs mmcv below 2.2 with compiled .* run"),
        (
            OURS | {"mmcv": "2.2.0"},
            "got .*, mmcv 2.2.0, which overwrite each other's modules; uninstall mmcv, and install "
            "onedl-mmsegmentation onedl-mmengine onedl-mmcv again",
        ),
    ],
)
def test_absent_upstream_and_mixed_packages_are_told_apart(installed: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_packages(installed)
    assert "\n" not in str(caught.value)


def test_installed_packages_are_found_with_their_versions() -> None:
    assert find_mmsegmentation() == {name: version(name) for name in OURS}
