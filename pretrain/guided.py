"""Methods in which one view is the source and another its fixed target: Guided Stop-Gradient can choose them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.errors import InputError, unknown
from pretrain.guidance import PAIRS, Selection, select_sources
from pretrain.siamese import Batch, Siamese, SiameseConfig


@dataclass
class GuidedConfig(SiameseConfig):
    """Options of methods that can be guided.

    Attributes:
        guidance: ``guided`` (closest pair predicts), ``random`` (any pair), ``reverse`` (the pair opposite to the
            closest one), or ``symmetric`` (every view predicts: the method without guidance).
        views: 4 fresh views per image and step (the official GSG code), or 2 that serve both of an image's pairs.
        pairs: partners are drawn in this process's batch (the official code) or in that of all processes (the paper).
    """

    guidance: str = "guided"
    views: int = 4
    pairs: str = "local"

    def __post_init__(self) -> None:
        """Refuse what no recipe can mean.

        Raises:
            InputError: an unknown choice, or a number out of range.
        """
        super().__post_init__()
        if self.pairs not in PAIRS:
            raise unknown("pairs", self.pairs, PAIRS)
        if self.views not in (2, 4):
            raise InputError(f"objective.views: expected 2 or 4, got {self.views}")


class Guided(Siamese):
    """Has sources and targets; guidance looks at the views of the usual size, and small crops follow the targets.

    Args:
        config: options.
        backbone: images to features (B, feature_dim).
        feature_dim: dimension of the features.
    """

    mixes = True

    def __init__(self, config: GuidedConfig, backbone: nn.Module, feature_dim: int):
        super().__init__(config, backbone, feature_dim)
        self.num_views = config.views
        self.guidance, self.pairs = config.guidance, config.pairs

    def choose(self, batch: Batch, generator: torch.Generator) -> Selection:
        """Choose the sources of a batch, and note them in it."""
        selection = select_sources(batch.target, self.guidance, self.pairs, generator)
        batch.sources = selection.sources
        return selection


def share_of_first_view(sources: Tensor) -> Tensor:
    """The share of an image's loss terms whose source is its first view, (N, 1)."""
    return (sources == 0).float().mean(0)[:, None]
