"""MMSegmentation: torchvision's names under ``backbone.``, and the part of a configuration that they need."""

from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint, to_header
from converters.targets import Loaded, plain_resnet_only, quiet, scaled

SUFFIX, FACTS_SUFFIX = ".pth", ".py"

PREFIX = "backbone."


def refusal(checkpoint: Checkpoint) -> str | None:
    """Why MMSegmentation's ResNet cannot hold a checkpoint."""
    return plain_resnet_only("MMSegmentation", checkpoint.arch)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """A file of tensors and text."""
    state = {PREFIX + name: tensor for name, tensor in checkpoint.backbone.items()}
    torch.save({"state_dict": state, "meta": {"checkpoint": to_header(checkpoint)}}, path)


def facts(checkpoint: Checkpoint, path: Path) -> str:
    """A configuration to put into ``_base_`` of a segmentor's."""
    depth = int(checkpoint.arch.removeprefix("resnet"))
    pixels = checkpoint.pixels
    channels = [(64 if depth < 50 else 256) * 2**stage for stage in range(4)]
    return f'''\
# How MMSegmentation must use {path.name}: any other value gives other features, most of them without a message.
# The norm is BN for one process; put type="SyncBN" there for several GPUs.
model = dict(
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean={[scaled(value) for value in pixels.mean]},
        std={[scaled(value) for value in pixels.std]},
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained=None,
    backbone=dict(
        type="ResNet",
        depth={depth},
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        style="pytorch",
        deep_stem=False,
        norm_cfg=dict(type="BN", requires_grad=True),
        init_cfg=dict(type="Pretrained", checkpoint="{{{{ fileDirname }}}}/{path.name}", prefix="{PREFIX}"),
    ),
    decode_head=dict(in_channels={channels}),
)
'''


def load(path: Path, checkpoint: Checkpoint) -> Loaded:
    """MMSegmentation's backbone, loaded by its own Pretrained initialisation."""
    with quiet():
        import mmcv
        import mmengine
        import mmseg
        from mmengine.config import Config
        from mmengine.runner.checkpoint import CheckpointLoader  # noqa: F401 - registers its loaders
        from mmseg.registry import MODELS
        from mmseg.utils import register_all_modules

        register_all_modules()
        model = Config.fromfile(str(path.with_suffix(FACTS_SUFFIX))).model
        backbone = MODELS.build(model.backbone)
        backbone.init_weights()
        preprocessor = MODELS.build(model.data_preprocessor)
    backbone.eval()

    def read(picture: Path, dtype: torch.dtype) -> Tensor:
        for name in ("mean", "std"):  # its float32 buffers would hide differences below 1e-7
            setattr(preprocessor, name, torch.tensor(model.data_preprocessor[name], dtype=dtype).view(-1, 1, 1))
        pixels = torch.from_numpy(mmcv.imread(str(picture))).permute(2, 0, 1)  # BGR, as its pipelines load images
        batch: Tensor = preprocessor({"inputs": [pixels]})["inputs"]
        return batch.to(dtype)

    versions = {"mmsegmentation": mmseg.__version__, "mmengine": mmengine.__version__, "mmcv": mmcv.__version__}
    return Loaded(backbone, dict(backbone.state_dict()), read, lambda batch: list(backbone(batch)), versions)
