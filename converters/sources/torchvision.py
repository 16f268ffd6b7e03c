"""torchvision's own weights, and files of its and PyTorch's reference training scripts."""

from converters.sources import TARGET, Form, Origin

_FC = r"(module\.)?fc\.(weight|bias)"

ORIGIN = Origin(
    title="torchvision; pytorch/examples imagenet and pytorch/vision references",
    forms=(
        Form(drop=(_FC,)),
        Form(wrapper=("state_dict",), drop=(_FC,)),
        Form("module.", ("state_dict",), drop=(_FC,)),
        Form(wrapper=("model",), drop=(_FC,)),
        Form(wrapper=("model_ema",), branch=TARGET, drop=(_FC, "n_averaged")),
        Form("module.", ("model_ema",), TARGET, drop=(_FC, "n_averaged")),
    ),
)
