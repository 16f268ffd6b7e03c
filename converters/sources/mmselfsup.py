"""OpenMMLab's MMSelfSup 0.x and 1.x, MMPretrain and OpenSelfSup."""

from converters.sources import ONLINE, TARGET, Form, Origin

_HEADS = r"(neck|head|loss|online_net\.1|encoder_q\.1|(target_net|encoder_k|momentum_encoder)\.(module\.)?1)\..*"
_BUFFERS = r"(queue\w*|memory_bank\..*|(target_net|encoder_k|momentum_encoder)\.steps)"
# 0.x builds the trained network as a sequence and names its first part backbone too
_TRAINED = ("online_net.0.", "encoder_q.0.")
# 1.x wraps the averaged network: module.
_TARGETS = tuple(
    f"{name}.{module}0." for name in ("target_net", "encoder_k", "momentum_encoder") for module in ("", "module.")
)
_ALL_TARGETS = r"(target_net|encoder_k|momentum_encoder)\.(module\.)?0\..*"

ORIGIN = Origin(
    title="MMSelfSup, MMPretrain: open-mmlab",
    forms=(
        Form("backbone.", ("state_dict",), ONLINE, drop=(_HEADS, _BUFFERS, _ALL_TARGETS), copies=_TRAINED),
        *(
            Form(target, ("state_dict",), TARGET, drop=(_HEADS, _BUFFERS, r"(backbone|online_net\.0|encoder_q\.0)\..*"))
            for target in _TARGETS
        ),
        Form(wrapper=("state_dict",)),
    ),
    note="extracted backbones have no prefix",
)
