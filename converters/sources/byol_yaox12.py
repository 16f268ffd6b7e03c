"""BYOL of yaox12/BYOL-PyTorch: its training files, and its legacy release, whose names follow no rule."""

from converters.keys import SEQUENTIAL
from converters.sources import ONLINE, TARGET, Form, Origin


def _forms(module: str) -> tuple[Form, ...]:
    # projetion: spelled so there
    heads = (rf"{module}(online|target)_network\.projetion\..*", rf"{module}predictor\..*")
    online, target = (rf"{module}{name}_network\.encoder\..*" for name in ("online", "target"))
    return (
        Form(f"{module}online_network.encoder.", ("model",), ONLINE, SEQUENTIAL, (*heads, target)),
        Form(f"{module}target_network.encoder.", ("model",), TARGET, SEQUENTIAL, (*heads, online)),
    )


def _legacy() -> tuple[Form, ...]:
    fc = (r"(.*\.)?fc\.(weight|bias)",)
    return (
        Form(wrapper=("online_backbone",), rules=None, drop=fc),
        Form(wrapper=("target_backbone",), branch=TARGET, rules=None, drop=fc),
    )


ORIGIN = Origin(
    title="BYOL: yaox12/BYOL-PyTorch",
    forms=(
        *_forms("module."),
        *_forms(""),
        *_legacy(),
    ),
    note="the legacy release (online_backbone) is read by the order of its tensors, each with its shape checked",
)
