"""The mean over all pixels and one linear layer."""

from __future__ import annotations

import torch

from convatlas.layers.head import mean_head


def test_a_mean_head() -> None:
    head = mean_head(3, 5, 0.5).eval()
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(head(x), head.fc(x.mean((2, 3))))
    assert [name for name, _ in mean_head(3, 5).named_children()] == ["pool", "flatten", "fc"]
