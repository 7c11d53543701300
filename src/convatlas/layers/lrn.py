"""Local response normalisation: a pixel's channels inhibit their neighbours (Krizhevsky et al., 2012, section 3.3)."""

from __future__ import annotations

from torch import nn


def lrn(n: int = 5, *, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> nn.LocalResponseNorm:
    """b_i = a_i / (k + alpha * sum of a_j^2 over the n channels around i)^beta; any shape (N, C, H, W), kept.

    The defaults are AlexNet's. torch divides alpha by n, the paper does not; so does Caffe, whose prototxt files
    therefore print n times the alpha that they mean.
    """
    return nn.LocalResponseNorm(n, alpha=n * alpha, beta=beta, k=k)
