"""VISSL, Goyal et al. 2021: its checkpoints (the model zoo also holds original files of SwAV and Barlow Twins)."""

from converters.sources import Form, Origin

_TRUNK = ("classy_state_dict", "base_model", "model", "trunk")

ORIGIN = Origin(
    title="VISSL: facebookresearch/vissl",
    forms=(
        Form("_feature_blocks.", _TRUNK),
        Form("_feature_blocks.", ("model_state_dict",), drop=(r"heads\..*", r"_feature_blocks\.fc\..*")),
    ),
)
