"""The deviations that weights start with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers.init import he_normal


def test_depthwise_filters_start_by_their_own_connections() -> None:
    torch.manual_seed(0)
    depthwise, full = nn.Conv2d(256, 256, 3, groups=256), nn.Conv2d(64, 128, 3)
    for per_group, expected in ((True, (2 / 9) ** 0.5), (False, (2 / (9 * 256)) ** 0.5)):
        he_normal(nn.Sequential(depthwise, full), per_group=per_group)
        assert float(depthwise.weight.detach().std()) == pytest.approx(expected, rel=0.06)
        assert float(full.weight.detach().std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.06)
