"""SimCLR v1, Chen et al. 2020, converted from TensorFlow by tonylins/simclr-converter."""

from converters.checkpoint import Pixels
from converters.sources import Form, Origin

ORIGIN = Origin(
    title="SimCLR v1: google-research/simclr by tonylins/simclr-converter",
    forms=(
        Form(
            wrapper=("state_dict",),
            drop=(r"fc\.(weight|bias)",),
            alone=True,
            pixels=Pixels(224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        ),
    ),
    note="images in 0..1, without mean and std; TensorFlow's max-pool padded by SAME, which the conversion ignores",
)
