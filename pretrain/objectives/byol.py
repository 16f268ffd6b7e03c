"""BYOL as the GSG code has it, with or without Guided Stop-Gradient; by its settings also as DeepMind's code has it.

Grill et al. 2020, "Bootstrap Your Own Latent"; with guidance Lee & Lee 2023. Official code: bych-lee/gsg, whose heads,
loss, optimiser and symmetric views are SimSiam's: what differs is where the targets come from. DeepMind's heads, loss
scale, optimiser and views are settings: configs/pretrain/imagenet_byol_deepmind.yaml.
"""

from dataclasses import dataclass

from pretrain.asymmetric import Asymmetric, AsymmetricConfig


@dataclass
class Config(AsymmetricConfig):
    """Options of BYOL.

    Attributes:
        momentum: of the target's moving average, constant (bych-lee/gsg; the paper does not state it).
    """

    name: str = "byol"
    momentum: float | None = 0.99


class Method(Asymmetric):
    """The targets, and the distances between them, come from a moving average of the online network."""
