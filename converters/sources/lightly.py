"""lightly: benchmarks, examples and its command line's files.

In the benchmarks of DINO and MoCo, ``backbone`` is the momentum network, and another one is trained.
"""

import re
from collections.abc import Iterator

from converters.keys import NAMED, SEQUENTIAL, SEQUENTIAL_CIFAR, SEQUENTIAL_CIFAR_SHORTCUT
from converters.sources import IMAGENET_STEM, ONLINE, TARGET, Form, Origin

_HEADS = (
    r"(model\.)?((teacher|student|query|key|momentum)_)?(projection_head|prediction_head)(_momentum)?\..*",
    r"(teacher_head|student_head)\..*",
    r"(online_classifier|criterion)\..*",
    r"dummy_param",  # of its older benchmarks: an empty tensor that knows the device
    r"(model\.)?(prototypes|queue\w*|memory_bank\w*)(\..*)?",
)
# name of the trained network, names of its momentum twin
_TWINS = {
    "backbone": ("teacher_backbone", "key_backbone", "backbone_momentum", "momentum_backbone"),
    "model.backbone": ("model.momentum_backbone", "model.key_backbone"),
    "student_backbone": ("backbone", "teacher_backbone"),
    "query_backbone": ("backbone",),
}
_RULES = (
    (NAMED, (*IMAGENET_STEM, "resnet18_cifar")),
    (SEQUENTIAL, IMAGENET_STEM),
    (SEQUENTIAL_CIFAR, ("resnet18_cifar",)),
    (SEQUENTIAL_CIFAR_SHORTCUT, ("resnet18_cifar",)),  # lightly.models.ResNetGenerator
)


def _forms() -> Iterator[Form]:
    for trained, twins in _TWINS.items():
        for own in (trained, *twins):
            others = tuple(rf"{re.escape(name)}\..*" for name in (trained, *twins) if name != own)
            branch, beside = (ONLINE, "") if own == trained else (TARGET, f"{trained}.")
            for rules, architectures in _RULES:
                yield Form(
                    f"{own}.",
                    ("state_dict",),
                    branch,
                    rules,
                    (*_HEADS, *others),
                    beside=beside,
                    architectures=architectures,
                )


ORIGIN = Origin(
    title="lightly: lightly-ai/lightly",
    forms=tuple(_forms()),
    note="CIFAR's networks were trained with ImageNet's or with CIFAR's mean and std: see the script, --mean and --std",
)
