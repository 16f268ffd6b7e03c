"""Projector and predictor, the parts that are thrown away after pretraining."""

from collections.abc import Sequence

from torch import nn


def build_projector(in_dim: int, dims: Sequence[int], *, last_affine: bool) -> nn.Sequential:
    """Linear, batch norm and ReLU per layer, without the ReLU after the last.

    Chen & He 2021, section 3. Linear layers before a batch norm have no bias, which the norm would remove.

    Args:
        in_dim: dimension of the backbone's features.
        dims: width of each layer, the last being that of the projections.
        last_affine: whether the last batch norm learns a scale and a shift (off in the official SimSiam and GSG code).
    """
    layers: list[nn.Module] = []
    for width in dims[:-1]:
        layers += [nn.Linear(in_dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        in_dim = width
    layers += [nn.Linear(in_dim, dims[-1], bias=False), nn.BatchNorm1d(dims[-1], affine=last_affine)]
    return nn.Sequential(*layers)


def build_predictor(dim: int, hidden_dim: int) -> nn.Sequential:
    """A bottleneck of two layers, the second without batch norm (Chen & He 2021, section 3).

    Args:
        dim: of the projections, and of what it predicts.
        hidden_dim: width of the bottleneck.
    """
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, dim),
    )
