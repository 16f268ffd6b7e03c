"""VICReg, Bardes et al. 2022: its released backbone, or a training file."""

from converters.sources import Form, Origin

# its first convolution pads by 2 after a padding of 1: together torchvision's 3
ORIGIN = Origin(
    title="VICReg: facebookresearch/vicreg",
    forms=(Form(), Form("module.backbone.", ("model",), drop=(r"module\.projector\..*",))),
    epochs="epoch",
)
