"""SimSiam, Chen & He 2021, and Guided Stop-Gradient, Lee & Lee 2023, whose BYOL adds a momentum encoder."""

from converters.sources import ONLINE, TARGET, Form, Origin


def _forms(module: str) -> tuple[Form, ...]:
    heads = (rf"{module}encoder(_momentum)?\.fc\..*", rf"{module}predictor\..*")
    return (
        Form(f"{module}encoder.", ("state_dict",), ONLINE, drop=(*heads, rf"{module}encoder_momentum\..*")),
        Form(f"{module}encoder_momentum.", ("state_dict",), TARGET, drop=(*heads, rf"{module}encoder\..*")),
    )


ORIGIN = Origin(
    title="SimSiam: facebookresearch/simsiam; SimSiam and BYOL with GSG: bych-lee/gsg",
    forms=(*_forms("module."), *_forms("")),
    epochs="epoch",
)
