"""UniGrad, Tao et al. 2022: the backbone is a sequence of torchvision's children."""

from converters.keys import SEQUENTIAL
from converters.sources import ONLINE, TARGET, Form, Origin

_HEADS = r"module\.(momentum_)?(projector|predictor)\..*"

ORIGIN = Origin(
    title="UniGrad: fundamentalvision/UniGrad",
    forms=(
        Form("module.encoder.", ("model",), ONLINE, SEQUENTIAL, (_HEADS, r"module\.momentum_encoder\..*")),
        Form("module.momentum_encoder.", ("model",), TARGET, SEQUENTIAL, (_HEADS, r"module\.encoder\..*")),
    ),
)
