"""SimSiam and BYOL of PatrickHua/SimSiam: torchvision's ResNets and two of CIFAR's."""

from converters.checkpoint import Pixels
from converters.keys import NAMED, NAMED_SHORTCUT
from converters.sources import IMAGENET_STEM, ONLINE, TARGET, Form, Origin

_ARCHITECTURES = (*IMAGENET_STEM, "resnet18_cifar")


def _forms(module: str) -> tuple[Form, ...]:
    encoder = rf"{module}(online_|target_)?encoder"
    heads = (
        rf"{module}(projector|predictor|online_predictor)\..*",
        rf"{encoder}\.1\..*",
        rf"({module}backbone|{encoder}\.0)\.(fc|linear)\..*",
    )
    online = (*heads, rf"{module}target_encoder\.0\..*")
    target = (*heads, rf"{module}(backbone|online_encoder\.0)\..*")
    # the encoder is a sequence of backbone and projector: both stand there twice
    copies = (f"{module}encoder.0.", f"{module}online_encoder.0.")
    small = Pixels(32)  # augmentations/simsiam_aug.py there: ImageNet's mean and std at every size
    return tuple(
        Form(prefix, ("state_dict",), branch, rules, drop, copied, architectures=_ARCHITECTURES, small_pixels=small)
        for rules in (NAMED, NAMED_SHORTCUT)
        for prefix, branch, drop, copied in (
            (f"{module}backbone.", ONLINE, online, copies),
            (f"{module}target_encoder.0.", TARGET, target, ()),
        )
    )


ORIGIN = Origin(
    title="SimSiam, BYOL: PatrickHua/SimSiam",
    forms=(*_forms("module."), *_forms("")),
    epochs="epoch",
    note="its files pickle their arguments: --unsafe-pickle",
)
