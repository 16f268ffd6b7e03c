"""BYOL of lucidrains/byol-pytorch: the whole learner (the bare network is torchvision's)."""

from converters.sources import ONLINE, TARGET, Form, Origin


def _forms(wrapper: tuple[str, ...], learner: str) -> tuple[Form, ...]:
    heads = (
        rf"{learner}((online|target)_encoder\.)?net\.fc\..*",  # of the wrapped network
        rf"{learner}(online|target)_encoder\.projector\..*",  # made at the first step: may be absent
        rf"{learner}online_predictor\..*",
    )
    online = (*heads, rf"{learner}target_encoder\.net\..*")
    target = (*heads, rf"{learner}(online_encoder\.)?net\..*")
    # the wrapped network stands there twice: as net and in the online encoder
    return (
        Form(f"{learner}online_encoder.net.", wrapper, ONLINE, drop=online, copies=(f"{learner}net.",)),
        Form(f"{learner}target_encoder.net.", wrapper, TARGET, drop=target),
    )


ORIGIN = Origin(
    title="BYOL: lucidrains/byol-pytorch",
    # examples/lightning there calls it learner
    forms=(*_forms((), ""), *_forms(("state_dict",), ""), *_forms(("state_dict",), "learner.")),
    note="its default augmentation normalises by ImageNet's mean and std; another one needs --mean and --std",
)
