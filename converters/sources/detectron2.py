"""Backbones in Detectron2's names: converted ones, as a pickle of arrays or as torch.save writes them.

A trained detector (with fpn, proposals and heads beside the backbone) does not say in which channel order and with
which stride it was trained, so it is refused; so are Caffe2's names.
"""

from converters.keys import DETECTRON2
from converters.sources import Form, Origin

ORIGIN = Origin(
    title="Detectron2: facebookresearch/detectron2",
    forms=tuple(
        Form(prefix, ("model",), rules=DETECTRON2, drop=(rf"{prefix}stem\.fc\..*",))
        for prefix in ("", "backbone.", "backbone.bottom_up.")
    ),
    note="RGB, stride in the 3x3 convolution, as MoCo, solo-learn and VISSL convert them",
)
