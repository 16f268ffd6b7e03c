"""Projector and predictor, the parts that are thrown away after pretraining."""

from collections.abc import Sequence

from torch import nn

NORMS = ("every", "hidden", "none")


def build_projector(
    in_dim: int, dims: Sequence[int], *, norm: str = "every", last_affine: bool = False, last_bias: bool = True
) -> nn.Sequential:
    """Linear, batch norm and ReLU per layer, without the ReLU after the last.

    Chen & He 2021, section 3; the other forms are those of MoCo v2 (no norm), and of SwAV, BYOL, VICReg and UniGrad
    (none after the last layer). Linear layers before a batch norm have no bias, which the norm would remove.

    Args:
        in_dim: dimension of the backbone's features.
        dims: width of each layer, the last being that of the projections.
        norm: batch norm after ``every`` layer, after the ``hidden`` ones, or ``none``.
        last_affine: whether the last batch norm, if there is one, learns a scale and a shift (off in the official
            SimSiam and GSG code).
        last_bias: whether the last layer has a bias where no norm follows it.
    """
    layers: list[nn.Module] = []
    for width in dims[:-1]:
        hidden = [nn.BatchNorm1d(width)] if norm != "none" else []
        layers += [nn.Linear(in_dim, width, bias=norm == "none"), *hidden, nn.ReLU(inplace=True)]
        in_dim = width
    layers.append(nn.Linear(in_dim, dims[-1], bias=last_bias and norm != "every"))
    if norm == "every":
        layers.append(nn.BatchNorm1d(dims[-1], affine=last_affine))
    return nn.Sequential(*layers)


def build_predictor(dim: int, hidden_dim: int) -> nn.Sequential:
    """Two layers, the second without batch norm (Chen & He 2021, section 3, where the first is a bottleneck).

    Args:
        dim: of the projections, and of what it predicts.
        hidden_dim: width of the first layer.
    """
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, dim),
    )
