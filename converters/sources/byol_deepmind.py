"""BYOL, Grill et al. 2020: DeepMind's pickle of a haiku ResNet-50, with TensorFlow's padding and layout."""

from collections.abc import Iterator

from torch import Tensor

from converters.keys import Rule
from converters.sources import ONLINE, TARGET, Form, Origin

# the experiment's state is a named tuple; without its class it is read as a list, in this order
_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")


def _rules(params: str, state: str) -> Iterator[Rule]:
    """A convolution's ``w``; a batch norm's scale and offset, and its debiased averages (`hk.BatchNorm`)."""
    for conv, norm, theirs, ours in _pairs():
        yield Rule(rf"{params}\.{conv}\.w", f"{theirs}.weight")
        yield Rule(rf"{params}\.{norm}\.scale", f"{ours}.weight")
        yield Rule(rf"{params}\.{norm}\.offset", f"{ours}.bias")
        yield Rule(rf"{state}\.{norm}/~/mean_ema\.average", f"{ours}.running_mean")
        yield Rule(rf"{state}\.{norm}/~/var_ema\.average", f"{ours}.running_var")


def _pairs() -> Iterator[tuple[str, str, str, str]]:
    """Every convolution and batch norm of haiku, and torchvision's names of them."""
    yield "res_net50/~/initial_conv", "res_net50/~/initial_batchnorm", "conv1", "bn1"
    for group, num_blocks in enumerate((3, 4, 6, 3)):  # ResNet-50
        for number in range(num_blocks):
            block = f"res_net50/~/block_group_{group}/~/block_{number}/~"
            name = f"layer{group + 1}.{number}"
            for k in range(3):
                yield f"{block}/conv_{k}", f"{block}/batchnorm_{k}", f"{name}.conv{k + 1}", f"{name}.bn{k + 1}"
            if number == 0:
                yield (
                    f"{block}/shortcut_conv",
                    f"{block}/shortcut_batchnorm",
                    f"{name}.downsample.0",
                    f"{name}.downsample.1",
                )


def _arrange(name: str, tensor: Tensor) -> Tensor:
    """HWIO to OIHW for a convolution, (1, 1, 1, C) to (C,) for a batch norm."""
    if tensor.ndim != 4:
        return tensor
    return tensor.permute(3, 2, 0, 1) if "conv" in name or "downsample.0" in name else tensor.flatten()


def _form(branch: str, params: str, state: str, others: tuple[str, ...]) -> Form:
    heads = r"(projector|predictor|classifier|res_net50/~/logits)\b.*"
    return Form(
        wrapper=("experiment_state",),
        branch=branch,
        rules=tuple(_rules(params, state)),
        drop=(
            rf"({params}|{state})\.{heads}",
            rf"{state}\..*/~/(mean|var)_ema\.(counter|hidden)",
            *(rf"{other}\b.*" for other in others),
        ),
        architectures=("resnet50_same",),
        arrange=_arrange,
    )


ORIGIN = Origin(
    title="BYOL: deepmind-research/byol",
    forms=tuple(
        _form(branch, params, state, tuple(set(names) - {params, state}))
        for names in (_FIELDS, tuple("01234"))
        for branch, params, state in ((ONLINE, names[0], names[2]), (TARGET, names[1], names[3]))
    ),
    note="needs --unsafe-pickle and the package dill; TensorFlow's padding: for transfer/linear.py only",
)
