"""Networks that the canon does not have, of torchvision and timm: the counts of others are ours.

Two oracles: PyTorch's `FlopCounterMode` at full size on the meta device, and fvcore, which reads a traced graph and
not the dispatched operations, on small images. Wherever fvcore's own sum differs, the operators that it adds, or does
not know, account for the whole difference.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from convatlas.cli.target import Target, resolve
from convatlas.measure import measure
from convatlas.models import list_models, specs

TORCHVISION = (
    "regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t", "vit_b_16", "maxvit_t", "efficientnet_v2_s", "r3d_18",
    "s3d", "fcn_resnet50", "lraspp_mobilenet_v3_large",
)  # fmt: skip
TIMM = (
    "ghostnet_100", "res2net50_26w_4s", "hrnet_w18_small", "dla34", "cspresnet50", "mixnet_s", "rexnet_100", "dpn68",
    "xception41", "ese_vovnet19b_dw", "selecsls42", "repvgg_a0", "mobileone_s0", "skresnet18", "gernet_s",
    "lcnet_050", "tf_efficientnetv2_b0", "botnet26t_256", "halonet26t", "mixer_s32_224", "convmixer_768_32",
    "mobilevit_xxs", "poolformer_s12", "resnest14d",
)  # fmt: skip
FOREIGN = [*(f"torchvision:{name}" for name in TORCHVISION), *(f"timm:{name}" for name in TIMM)]
# What fvcore adds to its sum that is no multiply-add of a layer with weights or a product of matrices.
NORMALISATION_AND_POOLING = {
    "batch_norm", "layer_norm", "group_norm", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip
FOR_FVCORE = [
    "torchvision:regnet_y_400mf", "torchvision:convnext_tiny", "torchvision:swin_t", "timm:ghostnet_100", "timm:dla34",
    "timm:skresnet18", "timm:lcnet_050", "timm:gernet_s", "timm:mobilevit_xxs",
]  # fmt: skip


def test_none_of_them_is_in_the_canon() -> None:
    known = {*list_models(), *(peer for spec in specs() for peer in spec.peers.values())}
    assert not known & {name.partition(":")[2] for name in FOREIGN}
    assert len(FOREIGN) >= 20


@pytest.mark.parametrize("name", FOREIGN)
def test_parameters_and_macs_are_those_of_pytorch(name: str) -> None:
    found = resolve(name)
    cost = measure(found.model, found.input_shape)
    assert cost.params == sum(parameter.numel() for parameter in found.model.parameters())
    assert cost.trainable == cost.params
    assert cost.macs == flop_counter(found) // 2
    assert cost.unknown == ()


def flop_counter(found: Target) -> int:
    """Two for every multiply-add, as PyTorch counts them."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.no_grad():
        found.model.to("meta").eval()(torch.empty(1, *found.input_shape))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", FOR_FVCORE)
def test_macs_are_those_of_fvcore(name: str) -> None:
    found = resolve(name, image_size=64, real=True)
    by_operator, unsupported, attention = fvcore(found)
    others = {
        operator: count for operator, count in by_operator.items() if operator in NORMALISATION_AND_POOLING
    }
    products = sum(by_operator.values()) - sum(others.values())
    cost = measure(found.model, found.input_shape)
    assert cost.macs == products + attention
    assert (attention > 0) == ("aten::scaled_dot_product_attention" in unsupported)
    assert set(by_operator) - set(others) <= {"conv", "linear", "matmul", "bmm", "addmm", "einsum"}


def fvcore(found: Target) -> tuple[dict[str, int], set[str], int]:
    """Counts by operator, the operators that it does not know, and the multiply-adds of attention, which is one."""
    with quiet():
        from fvcore.nn import FlopCountAnalysis

        attention = Attention()
        analysis = FlopCountAnalysis(found.model.eval(), torch.zeros(1, *found.input_shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_operator = dict(analysis.by_operator())
        with attention, torch.no_grad():
            found.model(torch.zeros(1, *found.input_shape))
    return by_operator, set(analysis.unsupported_ops()), attention.macs


class Attention(TorchFunctionMode):
    """Multiply-adds of `scaled_dot_product_attention`: queries with keys, then the weights with values."""

    macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            self.macs += (
                query.numel() * key.shape[-2] + query.shape[:-1].numel() * key.shape[-2] * value.shape[-1]
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def quiet() -> Iterator[None]:
    """fvcore and the tracer below it warn of what they may get wrong; that is what is tested."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
