"""SimCLR v2, Chen et al. 2020, converted from TensorFlow by Separius/SimCLRv2-Pytorch, without selective kernels."""

from converters.checkpoint import Pixels
from converters.keys import resnet_modules, rules_between
from converters.sources import Form, Origin

# in a block, convolutions at 0, 2 and 4, each followed by a module of batch norm and ReLU
_BLOCK = ("net.0", "net.1.0", "net.2", "net.3.0", "net.4", "net.5.0")
_SHORTCUT = ("projection.shortcut.0", "projection.shortcut.1.0")
_MODULES = [
    "net.0.0",
    "net.0.1.0",
    *(f"net.{stage}.blocks.#.{name}" for stage in (1, 2, 3, 4) for name in (*_BLOCK, *_SHORTCUT)),
]


ORIGIN = Origin(
    title="SimCLR v2: google-research/simclr by Separius/SimCLRv2-Pytorch",
    forms=(
        Form(
            wrapper=("resnet",),
            rules=rules_between(_MODULES, resnet_modules()),
            drop=(r"fc\.(weight|bias)",),
            architectures=("resnet50", "resnet101"),
            pixels=Pixels(224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        ),
    ),
    note="images in 0..1, without mean and std; only sk0, one time as wide",
)
