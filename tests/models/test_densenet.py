"""DenseNet: layers against equation 2, the plan of table 1, and memory: maps are written once, or computed again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from convatlas.errors import UsageError
from convatlas.models import create_model
from convatlas.models.classifier import Classifier
from convatlas.models.densenet import DenseBlock, DenseLayer


def block(depth: int, **settings: Any) -> DenseBlock:
    """A block of 8 + 4 * depth channels whose BatchNorm is not the identity."""
    torch.manual_seed(0)
    made = DenseBlock(
        8, depth, 4, **{"bottleneck": True, "dropout": 0.0, "memory_efficient": False} | settings
    )
    for norm in (module for module in made.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 1.5)
    return made


class Written(TorchDispatchMode):
    """Counts the numbers that concatenations and copies write."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("cat", "copy_", "clone"):
            self.numbers += output.numel()
        return output


def test_each_layer_reads_all_maps_before_it() -> None:
    made = block(3, bottleneck=False).double().eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    maps = [x]
    for layer in made.children():
        assert isinstance(layer, DenseLayer)
        seen = torch.cat(maps, 1)
        norm, conv = layer.get_submodule("bn1"), layer.get_submodule("conv1")
        shape = (1, -1, 1, 1)
        normal = (seen - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
        normal = normal * norm.weight.view(shape) + norm.bias.view(shape)
        maps.append(nn.functional.conv2d(normal.relu(), conv.weight, padding=1))
    torch.testing.assert_close(made(x), torch.cat(maps, 1))


def test_bottlenecks_have_four_times_the_growth() -> None:
    shapes = [tuple(m.weight.shape) for m in block(2).modules() if isinstance(m, nn.Conv2d)]
    assert shapes == [(16, 8, 1, 1), (4, 16, 3, 3), (16, 12, 1, 1), (4, 16, 3, 3)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_writing_once_gives_the_same(bottleneck: bool, layout: torch.memory_format, count: int) -> None:
    """But for rounding: torch's BatchNorm takes another kernel for a part of a buffer, unless it is whole in memory."""
    made = block(5, bottleneck=bottleneck).double().eval().to(memory_format=layout)
    x = torch.randn(count, 8, 7, 7, dtype=torch.float64).to(memory_format=layout)
    copied = made(x)
    with torch.no_grad():
        written = made(x)
    with torch.inference_mode():
        assert torch.equal(made(x), written)
    assert written.is_contiguous(memory_format=layout)
    if count == 1 and layout == torch.contiguous_format:
        assert torch.equal(written, copied)
    torch.testing.assert_close(written, copied, rtol=1e-13, atol=1e-13)


def test_without_gradients_copies_grow_linearly() -> None:
    """Each of the 8 + 4 L maps is written once; concatenations write about 2 L^2 of them."""
    pixels = 2 * 5 * 5
    for depth in (4, 8, 16):
        made, x = block(depth).eval(), torch.randn(2, 8, 5, 5)
        with torch.no_grad(), Written() as written:
            made(x)
        assert written.numbers == pixels * (8 + 4 * depth)
        with Written() as written:
            made(x)
        assert written.numbers == pixels * sum(8 + 4 * i for i in range(1, depth + 1))


def test_the_whole_network_writes_once() -> None:
    network = create_model("densenet_40_12_cifar").eval()
    with torch.no_grad(), Written() as written:
        network(torch.randn(1, 3, 32, 32))
    assert written.numbers == (16 + 12 * 12) * 1024 + (160 + 12 * 12) * 256 + (304 + 12 * 12) * 64


def test_what_a_hook_has_seen_stays() -> None:
    made = block(4).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    for layer in made.children():
        layer.register_forward_hook(lambda m, args, out: seen.extend((t, t.clone()) for t in (*args, out)))
    with torch.no_grad():
        made(torch.randn(1, 8, 4, 4))
    assert len(seen) == 8
    assert all(torch.equal(tensor, before) for tensor, before in seen)


def kept_for_backward(made: nn.Module, x: Tensor) -> int:
    count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        count += tensor.numel()
        return tensor.detach()  # an output itself would be held by its own graph, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(x)
    return count


def test_memory_efficient_training_gives_the_same_bits_and_keeps_less() -> None:
    plain, saving = block(6, dropout=0.2).train(), block(6, dropout=0.2, memory_efficient=True).train()
    x = torch.randn(4, 8, 6, 6)
    for made in (plain, saving):
        torch.manual_seed(1)
        made(x).square().sum().backward()
    for (name, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert all(map(torch.equal, saving.buffers(), plain.buffers()))
    assert kept_for_backward(saving, x) < kept_for_backward(plain, x) / 2


def test_memory_efficient_inside_checkpointed_stages() -> None:
    plain = create_model("densenet_40_12_cifar")
    saving = create_model("densenet_40_12_cifar", memory_efficient=True)
    saving.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert isinstance(saving, Classifier)
    saving.set_grad_checkpointing()
    x = torch.randn(2, 3, 16, 16)
    for network in (plain, saving):
        network(x).square().sum().backward()
    assert all(
        torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), saving.parameters(), strict=True)
    )
    assert all(map(torch.equal, plain.buffers(), saving.buffers()))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("densenet121", [64, 256, 512, 1024, 1024]),
        ("densenet169", [64, 256, 512, 1280, 1664]),
        ("densenet201", [64, 256, 512, 1792, 1920]),
        ("densenet264", [64, 256, 512, 2304, 2688]),
    ],
)
def test_maps_of_table_1(name: str, channels: list[int]) -> None:
    """112, 56, 28, 14 and 7 pixels for images of 224."""
    with torch.device("meta"):
        network = create_model(name)
        assert isinstance(network, Classifier)
        _, maps = network.forward_intermediates(torch.empty(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, side, side) for c, side in zip(channels, (112, 56, 28, 14, 7), strict=True)
    ]


def test_layer_dropout_follows_every_convolution_but_the_first() -> None:
    with torch.device("meta"):
        network = create_model("densenet_bc_100_12_cifar", layer_dropout=0.2)
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.2] * (100 - 2)  # all but the first convolution and the linear layer


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"stem": "5x5"}, "stem='5x5'.*'deep'"), ({"compression": 0.0}, "share in")],
)
def test_what_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_model("densenet121", **settings)


def test_a_block_grows_in_training_and_learns_the_same() -> None:
    """Beside all maps side by side before each layer, as the paper writes it."""
    torch.manual_seed(0)
    block = DenseBlock(6, 4, 3, bottleneck=True, dropout=0.0, memory_efficient=False).double().train()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 18, 5, 5, dtype=torch.float64)
    out = block(x)
    grown = torch.autograd.grad((out * weights).sum(), [x, *block.parameters()])
    maps = [x]
    for layer in block.children():
        maps.append(layer(*maps))
    apart = torch.cat(maps, 1)
    assert torch.equal(out, apart)
    for one, other in zip(
        grown, torch.autograd.grad((apart * weights).sum(), [x, *block.parameters()]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
