"""SwAV, Caron et al. 2020: training files, releases (flat, with ``module.``) and the hub's (torchvision's names)."""

from converters.sources import Form, Origin

_HEADS = (r"(module\.)?projection_head\.(\d+\.)?\w+", r"(module\.)?prototypes\.(prototypes\d+\.)?\w+")

# its first convolution pads by 2 after a padding of 1: together torchvision's 3
ORIGIN = Origin(
    title="SwAV: facebookresearch/swav",
    forms=(Form("module.", ("state_dict",), drop=_HEADS), Form("module.", drop=_HEADS), Form()),
    epochs="epoch",
)
