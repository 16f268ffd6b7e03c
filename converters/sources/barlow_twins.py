"""Barlow Twins, Zbontar et al. 2021: its released backbone, or a training file."""

from converters.sources import Form, Origin

ORIGIN = Origin(
    title="Barlow Twins: facebookresearch/barlowtwins",
    forms=(Form(), Form("module.backbone.", ("model",), drop=(r"module\.projector\..*", r"module\.bn\..*"))),
    epochs="epoch",
)
