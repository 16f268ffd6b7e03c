"""DINO with a ResNet, Caron et al. 2021: teacher and student of a training file, or the released teacher alone."""

from converters.sources import ONLINE, TARGET, Form, Origin

_HEAD = (r"(module\.)?head\..*",)

ORIGIN = Origin(
    title="DINO: facebookresearch/dino",
    forms=(
        *(
            Form(f"{module}backbone.", (network,), branch, drop=_HEAD)
            for network, branch in (("student", ONLINE), ("teacher", TARGET))
            for module in ("module.", "")
        ),
        Form(branch=TARGET),
    ),
    epochs="epoch",
    note="the paper evaluates the teacher: --branch target; training files pickle their arguments: --unsafe-pickle",
)
