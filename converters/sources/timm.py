"""timm's ResNets with torchvision's names (not its deep-stem ones, such as resnet50d), and its training files."""

from converters.sources import TARGET, Form, Origin

_FC = (r"fc\.(weight|bias)",)

ORIGIN = Origin(
    title="huggingface/pytorch-image-models",
    forms=(
        Form(drop=_FC),
        Form(wrapper=("state_dict",), drop=_FC),
        Form(wrapper=("model",), drop=_FC),
        Form(wrapper=("state_dict_ema",), branch=TARGET, drop=_FC),
    ),
    note="weights trained with another mean and std than ImageNet's need --mean and --std",
)
