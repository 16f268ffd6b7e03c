"""BYOL of sthalles/PyTorch-BYOL."""

from converters.checkpoint import Pixels
from converters.keys import SEQUENTIAL
from converters.sources import ONLINE, TARGET, Form, Origin

# data/transforms.py there ends with ToTensor; config/config.yaml: 96 pixels
_UNIT = Pixels(96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_PROJECTOR = (r"projetion\..*",)  # spelled so there

ORIGIN = Origin(
    title="BYOL: sthalles/PyTorch-BYOL",
    forms=(
        Form("encoder.", ("online_network_state_dict",), ONLINE, SEQUENTIAL, _PROJECTOR, pixels=_UNIT),
        Form("encoder.", ("target_network_state_dict",), TARGET, SEQUENTIAL, _PROJECTOR, pixels=_UNIT),
    ),
    note="images in 0..1, without mean and std",
)
