"""MoCo v3 with a ResNet, Chen, Xie & He 2021: files of facebookresearch/moco-v3."""

from converters.sources import ONLINE, TARGET, Form, Origin


def _forms(module: str) -> tuple[Form, ...]:
    heads = (rf"{module}(base|momentum)_encoder\.fc\..*", rf"{module}predictor\..*")
    return (
        Form(f"{module}base_encoder.", ("state_dict",), ONLINE, drop=(*heads, rf"{module}momentum_encoder\..*")),
        Form(f"{module}momentum_encoder.", ("state_dict",), TARGET, drop=(*heads, rf"{module}base_encoder\..*")),
    )


ORIGIN = Origin(title="MoCo v3: facebookresearch/moco-v3", forms=(*_forms("module."), *_forms("")), epochs="epoch")
