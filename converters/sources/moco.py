"""MoCo v1 and v2, He et al. 2020, Chen et al. 2020: files of facebookresearch/moco, with or without ``module.``."""

from converters.sources import ONLINE, TARGET, Form, Origin


def _forms(module: str) -> tuple[Form, ...]:
    # fc is one layer in v1, two in v2; queue_ptr where it stands in the queue
    others = (rf"{module}encoder_[qk]\.fc\.([02]\.)?(weight|bias)", rf"{module}queue(_ptr)?")
    return (
        Form(f"{module}encoder_q.", ("state_dict",), ONLINE, drop=(*others, rf"{module}encoder_k\..*")),
        Form(f"{module}encoder_k.", ("state_dict",), TARGET, drop=(*others, rf"{module}encoder_q\..*")),
    )


ORIGIN = Origin(title="MoCo v1, v2: facebookresearch/moco", forms=(*_forms("module."), *_forms("")), epochs="epoch")
