"""All convolutional networks: tables 1 and 2 of the paper, and what makes the comparison fair."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.models import create_model
from convatlas.models.classifier import Classifier

TAIL = "192 192/1 10/1"
# Tables 1 and 2, and what "analogously" makes of bases A and B. 96/5 is a 5x5 convolution of 96 maps, 192s its
# 3x3 one of stride 2, M is 3x3 max-pooling of stride 2.
TABLES = {
    "all_cnn_base_a": f"96/5 M 192/5 M {TAIL}",
    "strided_cnn_a": f"96/5s 192/5s {TAIL}",
    "convpool_cnn_a": f"96/5 96 M 192/5 192 M {TAIL}",
    "all_cnn_a": f"96/5 96s 192/5 192s {TAIL}",
    "all_cnn_base_b": f"96/5 96/1 M 192/5 192/1 M {TAIL}",
    "strided_cnn_b": f"96/5 96/1s 192/5 192/1s {TAIL}",
    "convpool_cnn_b": f"96/5 96/1 96 M 192/5 192/1 192 M {TAIL}",
    "all_cnn_b": f"96/5 96/1 96s 192/5 192/1 192s {TAIL}",
    "all_cnn_base_c": f"96 96 M 192 192 M {TAIL}",
    "strided_cnn_c": f"96 96s 192 192s {TAIL}",
    "convpool_cnn_c": f"96 96 96 M 192 192 192 M {TAIL}",
    "all_cnn_c": f"96 96 96s 192 192 192s {TAIL}",
}


def built(name: str, **settings: object) -> Classifier:
    with torch.device("meta"):
        network = create_model(name, **settings)
    assert isinstance(network, Classifier)
    return network


@pytest.mark.parametrize("name", TABLES)
def test_layers_of_tables_1_and_2(name: str) -> None:
    found: list[str] = []
    for module in built(name).modules():
        if isinstance(module, nn.Conv2d):
            kernel, stride = module.kernel_size[0], module.stride[0]
            assert module.padding == (kernel // 2,) * 2
            found.append(f"{module.out_channels}{'' if kernel == 3 else f'/{kernel}'}{'s' * (stride - 1)}")
        elif isinstance(module, nn.MaxPool2d):
            assert (module.kernel_size, module.stride) == (3, 2)
            found.append("M")
    assert " ".join(found) == TABLES[name]


@pytest.mark.parametrize("name", TABLES)
def test_maps_are_halved_twice(name: str) -> None:
    features, x = built(name).eval(), torch.empty(1, 3, 32, 32, device="meta")
    sizes = [out.shape[2] for child, out in features.run_features(x) if child.startswith("drop")]
    assert sizes == [32, 16, 8]
    assert features.forward_features(x).shape == (1, 192, 8, 8)


@pytest.mark.parametrize("base", "abc")
def test_the_comparison_is_fair(base: str) -> None:
    """The control has just the weights of the all convolutional network, and strided just those of the base."""
    shapes = {
        name: [tuple(p.shape) for p in built(f"{name}_{base}").parameters()]
        for name in ("all_cnn_base", "strided_cnn", "convpool_cnn", "all_cnn")
    }
    assert shapes["all_cnn_base"] == shapes["strided_cnn"]
    assert shapes["convpool_cnn"] == shapes["all_cnn"]
    assert len(shapes["all_cnn"]) == len(shapes["strided_cnn"]) + 4


def test_dropout_of_the_image_and_after_each_halving() -> None:
    for name in TABLES:
        network = built(name)
        rates = {child: m.p for child, m in network.features.named_children() if isinstance(m, nn.Dropout)}
        assert rates == {"drop0": 0.2, "drop1": 0.5, "drop2": 0.5}
        order = [child.split("_")[0] for child, _ in network.features.named_children()]
        assert order[0] == "drop0"
        assert order[order.index("drop1") - 1] == ("pool1" if "pool1" in order else "conv1")
        assert order[order.index("drop2") - 1] == ("pool2" if "pool2" in order else "conv2")
    none = [
        m.p for m in built("all_cnn_c", dropout=0.0, input_dropout=0.0).modules() if isinstance(m, nn.Dropout)
    ]
    assert none == [0.0, 0.0, 0.0]


def test_printed_six_by_six_maps_need_a_tail_without_padding() -> None:
    network = built("all_cnn_c", tail_padding=0).eval()
    assert network.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 192, 6, 6)


def test_logits_are_the_means_of_class_maps() -> None:
    torch.manual_seed(0)
    network = create_model("all_cnn_c").eval()
    assert isinstance(network, Classifier)
    x = torch.randn(2, 3, 32, 32)
    maps = network.get_classifier()(network.forward_features(x)).relu()
    torch.testing.assert_close(network(x), maps.mean((2, 3)))
