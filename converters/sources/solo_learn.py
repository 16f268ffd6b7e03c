"""solo-learn, da Costa et al. 2022: Lightning's checkpoints; old ones say ``encoder`` for backbone."""

from converters.sources import IMAGENET_STEM, ONLINE, TARGET, Form, Origin

_HEADS = (
    r"(momentum_)?(projector\d*|predictor\d*|simple_predictor|prototypes)\..*",
    r"(momentum_)?classifier\.(weight|bias)",
    r"(momentum_)?head\.(mlp|last_layer)\..*",
    r"(queue\w*|center|prototypes|dino_loss_func\.center)",
)
# its stem for CIFAR pads by 2 (solo/methods/base.py there), and each data set has its own mean and std
_ARCHITECTURES = (*IMAGENET_STEM, "resnet18_cifar_pad2")


def _forms(backbone: str) -> tuple[Form, ...]:
    return tuple(
        Form(f"{own}.", ("state_dict",), branch, drop=(*_HEADS, rf"{other}\..*"), architectures=_ARCHITECTURES)
        for own, other, branch in (
            (backbone, f"momentum_{backbone}", ONLINE),
            (f"momentum_{backbone}", backbone, TARGET),
        )
    )


ORIGIN = Origin(
    title="solo-learn: vturrisi/solo-learn",
    forms=(*_forms("backbone"), *_forms("encoder")),
    note="CIFAR's stem pads by 2: for transfer/linear.py, with --mean and --std of the data set",
)
