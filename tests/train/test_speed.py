"""How a run is computed: the rule and its table, layers in float32, what is kept and repeated."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from canon import CLASSIFIERS, build, by_weight, gradients, images
from convatlas.errors import BadCheckpoint, UsageError
from convatlas.layers.blueprint import blueprint
from convatlas.layers.winograd import Winograd2d
from convatlas.measure import measure
from convatlas.models import create_model, find
from convatlas.models.resnet import Block
from convatlas.registry import Spec
from convatlas.train import Recipe
from convatlas.train.computed import computed, in_float32, overwriting
from convatlas.train.speed import Device, Speed, depthwise, measurements, rule

BF16, PLAIN = Device("cpu", bf16=True), Device("cpu", bf16=False)
ROWS = [(device, row) for device in (BF16, PLAIN) for row in measurements(device.bf16)["rows"]]
measured = pytest.mark.parametrize(
    ("device", "row"),
    ROWS,
    ids=[f"{row['network']}-{row['batch']}-{'bf16' if device.bf16 else 'plain'}" for device, row in ROWS],
)


def built(name: str) -> nn.Module:
    with blueprint():
        return create_model(name)


# --- the table --------------------------------------------------------------------------------------------


@measured
def test_a_row_says_what_its_network_is(device: Device, row: dict[str, Any]) -> None:
    network = built(row["network"])
    assert device.bf16 or all(each["precision"] == "32" for each in row["measured"])
    shape = (find(row["network"]).channels, row["pixels"], row["pixels"])
    assert measure(network, shape).macs == row["macs"]
    assert bool(depthwise(network)) == row["depthwise"]


@measured
def test_a_measured_network_is_computed_as_it_was_fastest(device: Device, row: dict[str, Any]) -> None:
    found = rule(
        built(row["network"]), (row["batch"], find(row["network"]).channels, *[row["pixels"]] * 2), device
    )
    allowed = [each for each in row["measured"] if not each.get("compile")]
    best = max(allowed, key=lambda each: each["images_per_second"])
    exact = max(
        (each for each in allowed if each["precision"] == "32" and not each.get("winograd")),
        key=lambda each: each["images_per_second"],
    )
    if best["images_per_second"] < 1.03 * exact["images_per_second"]:
        best = exact
    assert (found.precision, found.channels_last) == (best["precision"], best["channels_last"])
    assert bool(found.float32) == bool(best.get("float32"))
    assert bool(found.winograd) == bool(best.get("winograd"))
    assert row["network"] in found.reason


# --- the rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", by_weight(CLASSIFIERS, light=0))  # one of each family at a landing
def test_every_network_of_the_canon_has_a_rule(spec: Any) -> None:
    network, shape = built(spec.name), (16, spec.channels, *[max(spec.image, spec.smallest)] * 2)
    found = rule(network, shape, BF16)
    assert found == rule(built(spec.name), shape, BF16)
    assert Speed.from_json(json.loads(json.dumps(found.to_json()))) == found
    convolutions = {name for name, each in network.named_modules() if isinstance(each, nn.Conv2d)}
    assert set(found.float32) <= convolutions & set(depthwise(network))
    assert not found.compile
    plain = rule(network, shape, PLAIN)
    assert (plain.precision, plain.float32, plain.compile) == ("32", (), False)
    assert all(Winograd2d.replaces(network.get_submodule(name)) for name in plain.winograd)
    assert Speed.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_the_rule_is_a_function_and_leaves_the_network_as_it_was() -> None:
    network = create_model("mobilenet_v2")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    first = rule(network, (16, 3, 224, 224), BF16)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert rule(network, (16, 3, 224, 224), BF16) == first
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_pytorch_than_that_of_the_table_is_told() -> None:
    network, shape = built("resnet18"), (16, 3, 224, 224)
    known = measurements()["torch"]
    own = rule(network, shape, Device("cpu", bf16=True, version=known.rsplit(".", 1)[0] + ".9"))
    other = rule(network, shape, Device("cpu", bf16=True, version="1.13.1"))
    assert other.reason == f"{own.reason}; here torch 1.13.1 computes"
    assert replace(other, reason="") == replace(own, reason="")


def test_bf16_is_taken_where_it_is_clearly_faster() -> None:
    table = copy.deepcopy(measurements())
    network, shape = built("resnet18"), (16, 3, 224, 224)
    for gain, precision in ((1.02, "32"), (1.04, "bf16")):
        for row in table["rows"]:
            for each in row["measured"]:
                each["images_per_second"] = gain if each["precision"] == "bf16" else 1.0
        assert rule(network, shape, BF16, table=table).precision == precision


def test_updates_are_fused_where_that_is_faster() -> None:
    """By the network whose weights are nearest in number: resnet18 has 11.7 M."""
    table = copy.deepcopy(measurements())
    network, shape = built("resnet18"), (16, 3, 224, 224)
    assert rule(network, shape, BF16).fused
    table["updates"] = [
        {"network": "small", "parameters": 3e6, "fused_over_plain": 0.5},
        {"network": "large", "parameters": 3e7, "fused_over_plain": 1.01},
    ]
    assert not rule(network, shape, BF16, table=table).fused
    assert rule(built("mobilenet_v2"), shape, BF16, table=table).fused


def test_a_wish_goes_before_the_table() -> None:
    small, large = create_model("lenet5"), built("resnet18")
    assert rule(small, (64, 1, 32, 32), PLAIN, precision="bf16").precision == "bf16"
    assert rule(large, (16, 3, 224, 224), BF16, precision="32").precision == "32"
    assert rule(large, (16, 3, 224, 224), BF16).precision == "bf16"
    assert rule(large, (16, 3, 224, 224), Device("cuda", bf16=True)).precision == "bf16"
    assert rule(large, (16, 3, 224, 224), Device("cuda", bf16=False)).precision == "32"


def test_a_faster_row_changes_the_rule() -> None:
    table = copy.deepcopy(measurements())
    network, shape = built("resnet18"), (16, 3, 224, 224)
    assert rule(network, shape, BF16, table=table) == rule(network, shape, BF16)
    for row in table["rows"]:
        for each in row["measured"]:
            each["images_per_second"] *= 100 if each["precision"] == "32" and not each["channels_last"] else 1
    found = rule(network, shape, BF16, table=table)
    assert (found.precision, found.channels_last) == ("32", False)


# --- layers in float32 ------------------------------------------------------------------------------------


class Convolutions(TorchDispatchMode):
    """Groups and type of every convolution that is computed, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "convolution":
            self.seen.append((name, args[8], args[0].dtype))
        elif name == "convolution_backward":
            self.seen.append((name, args[9], args[0].dtype))
        return func(*args, **(kwargs or {}))


def test_slow_depthwise_layers_are_computed_in_float32_and_dense_ones_in_bf16() -> None:
    network = create_model("mobilenet_v2", num_classes=3).train()
    speed = rule(network, (16, 3, 224, 224), BF16)
    assert speed.float32
    kept = [network.get_submodule(name).groups for name in speed.float32]
    with computed(network, speed), Convolutions() as mode, torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 3, 64, 64)).float().sum().backward()
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    for what in ("convolution", "convolution_backward"):
        seen = [(groups, kind) for name, groups, kind in mode.seen if name == what]
        assert len(seen) == len(layers)
        assert sorted(groups for groups, kind in seen if kind == torch.float32) == sorted(kept)
        assert all(kind == torch.bfloat16 for groups, kind in seen if groups == 1)


def test_names_and_weights_stay_and_all_is_given_back() -> None:
    network = create_model("mobilenet_v2", num_classes=3)
    names = tuple(depthwise(network))
    keys, image = list(network.state_dict()), torch.randn(1, 3, 64, 64)
    before = network.eval()(image)
    with in_float32(network, names):
        assert list(network.state_dict()) == keys
        assert torch.equal(network(image), before)  # without autocast it is the same network
        other = copy.deepcopy(network)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.count_nonzero(other(image)) == 0  # a copy computes with its own weights
        assert torch.equal(network(image), before)
    assert not any("forward" in vars(module) for module in network.modules())


def test_settings_are_given_back_after_an_error() -> None:
    network, threads = create_model("mobilenet_v2", num_classes=3), torch.get_num_threads()
    speed = Speed(
        precision="bf16", float32=tuple(depthwise(network)), threads=threads + 1, recompute=True, compile=True
    )
    with pytest.raises(RuntimeError, match="inside"), computed(network, speed):  # noqa: PT012
        assert torch.get_num_threads() == threads + 1
        assert network.grad_checkpointing
        raise RuntimeError("inside")
    assert torch.get_num_threads() == threads
    assert not network.grad_checkpointing
    assert network._compiled_call_impl is None
    assert not any("forward" in vars(module) for module in network.modules())


# --- Winograd's algorithm ---------------------------------------------------------------------------------


def test_winograd_is_taken_where_the_nearest_layer_gained() -> None:
    """A row for 64 channels and one for 256, of maps that lie as resnet18 has them."""
    table = copy.deepcopy(measurements(bf16=False))
    network, shape = built("resnet18"), (16, 3, 224, 224)
    for row in table["rows"]:
        row["measured"] = [
            each for each in row["measured"] if each["channels_last"] and not each.get("compile")
        ]
        for each in row["measured"]:
            each["images_per_second"] = 2.0 if each.get("winograd") else 1.0
    near = {"channels": 64, "filters": 64, "side": 56, "batch": 16, "winograd_over_direct": 0.98}
    far = {"channels": 256, "filters": 256, "side": 14, "batch": 16, "winograd_over_direct": 0.5}
    table["winograd"] = [near, far]
    found = rule(network, shape, PLAIN, table=table)
    assert {name.split(".")[1] for name in found.winograd} == {"conv4_x", "conv5_x"}
    assert len(found.winograd) == 6  # of four in each of the two stages the first is strided
    assert f"float32, {len(found.winograd)} convolutions by Winograd's algorithm" in found.words()
    table["winograd"] = [near]
    assert rule(network, shape, PLAIN, table=table).winograd == ()
    assert rule(network, shape, BF16).winograd == ()


def test_a_layer_thinner_than_all_that_gained_is_none() -> None:
    """vgg16's first convolution has three channels, and takes three times as long by Winograd's algorithm."""
    found = rule(built("vgg16"), (16, 3, 224, 224), PLAIN)
    convolutions = [name for name, each in built("vgg16").named_modules() if Winograd2d.replaces(each)]
    assert found.winograd == tuple(convolutions[1:])


def test_layers_learn_by_winograd_for_a_while() -> None:
    """In float64, where no rounding turns a ReLU over."""
    torch.manual_seed(0)
    network, targets = create_model("resnet18", num_classes=3).train().double(), torch.arange(4) % 3
    pictures = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    names = tuple(name for name, each in network.named_modules() if Winograd2d.replaces(each))
    assert len(names) == 13
    keys, before = list(network.state_dict()), gradients(network, pictures, targets)
    with computed(network, Speed(winograd=names)):
        assert sum(isinstance(each, Winograd2d) for each in network.modules()) == 13
        assert list(network.state_dict()) == keys
        found = gradients(network, pictures, targets)
    for name, exact in before.items():
        torch.testing.assert_close(found[name], exact, atol=1e-9, rtol=1e-6)
    assert not any(torch.equal(found[f"{name}.weight"], before[f"{name}.weight"]) for name in names)
    assert not any(isinstance(each, Winograd2d) for each in network.modules())
    assert all(
        torch.equal(each, before[name]) for name, each in gradients(network, pictures, targets).items()
    )
    for name, words in (("features.conv9", "has no layer"), ("features.conv1.conv", "does not compute")):
        with pytest.raises(UsageError, match=words), computed(network, Speed(winograd=(name,))):
            pass


def test_bf16_where_nothing_has_been_measured_is_a_wish() -> None:
    found = rule(built("resnet18"), (16, 3, 224, 224), PLAIN, precision="bf16")
    assert (found.precision, found.channels_last, found.winograd) == ("bf16", True, ())
    assert "bf16 was asked for" in found.reason


# --- a ReLU over its input --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", by_weight(CLASSIFIERS, light=2e7))
def test_overwriting_gives_the_same_bits(spec: Spec) -> None:
    network, targets = build(spec).train(), torch.zeros(2, dtype=torch.int64)
    stays = [each.inplace for each in network.modules() if isinstance(each, nn.ReLU | nn.ReLU6)]
    expected = gradients(network, images(spec), targets)
    with overwriting(network):
        found = gradients(network, images(spec), targets)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert [each.inplace for each in network.modules() if isinstance(each, nn.ReLU | nn.ReLU6)] == stays


@pytest.mark.parametrize(
    ("name", "least"), [("densenet121", 120), ("resnet50", 65), ("vgg16", 13), ("mobilenet_v2", 34)]
)
def test_most_relus_overwrite(name: str, least: int) -> None:
    network = built(name)
    with overwriting(network):
        assert sum(getattr(each, "inplace", False) for each in network.modules()) >= least


def test_a_relu_whose_input_is_needed_does_not_overwrite() -> None:
    shared, seen, bare, alone = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()
    looked_at = nn.Conv2d(3, 3, 1)
    looked_at.register_forward_hook(lambda *_: None)
    network = nn.ModuleDict(
        {
            "a": nn.Sequential(nn.Conv2d(3, 3, 1), shared),
            "b": nn.ModuleList([nn.Conv2d(3, 3, 1), shared]),  # not in line: who knows what is between
            "c": nn.Sequential(looked_at, seen),
            "d": nn.Sequential(bare, nn.Conv2d(3, 3, 1), nn.Dropout(), nn.ReLU()),
            "e": nn.Sequential(nn.Conv2d(3, 3, 1), alone),
            "f": nn.Sequential(nn.BatchNorm2d(3), nn.GELU(), nn.SiLU(), nn.ReLU()),
            "g": nn.Sequential(
                nn.Sequential(nn.Conv2d(3, 3, 1)), nn.ReLU()
            ),  # who knows what its forward does
        }
    )
    with overwriting(network):
        assert [each for each in network.modules() if getattr(each, "inplace", False)] == [alone]
    assert not alone.inplace


@pytest.mark.parametrize("looked_at", ["residual", "residual.bn3", "residual.conv3"])
def test_a_residual_that_is_looked_at_is_not_overwritten(looked_at: str) -> None:
    network, seen = create_model("resnet50", num_classes=3), list[tuple[torch.Tensor, torch.Tensor]]()
    first, second, *_ = (each for each in network.modules() if isinstance(each, Block))
    first.get_submodule(looked_at).register_forward_hook(lambda _, __, out: seen.append((out, out.clone())))
    with overwriting(network):
        network(torch.randn(2, 3, 32, 32))
        assert first.inplace == (looked_at == "residual.conv3")  # BatchNorm reads that, and it stays
        assert second.inplace
    ((kept, copy),) = seen
    assert torch.equal(kept, copy)
    assert not any(each.inplace for each in network.modules() if isinstance(each, Block))


def test_a_sequence_that_does_more_is_not_overwritten() -> None:
    class Squashed(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).sigmoid()

    block = create_model("resnet18", num_classes=3).get_submodule("features.conv2_x.0")
    assert isinstance(block, Block)
    block.residual = Squashed(*block.residual)
    with overwriting(block):
        assert not block.inplace
        block(torch.randn(2, 64, 8, 8)).sum().backward()


def test_a_sum_of_two_precisions_is_not_written_into_the_smaller_one() -> None:
    block = create_model("resnet18", num_classes=3).get_submodule("features.conv2_x.0")
    assert isinstance(block, Block)
    images = torch.randn(2, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        expected = block(images)
        with overwriting(block):
            assert block.inplace
            found = block(images)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


# --- what a run keeps -------------------------------------------------------------------------------------


def test_damaged_settings_are_a_bad_checkpoint() -> None:
    whole = Speed(precision="bf16", float32=("a",), winograd=("b",)).to_json()
    assert (Speed.from_json(whole).float32, Speed.from_json(whole).winograd) == (("a",), ("b",))
    earlier = {name: value for name, value in whole.items() if name != "winograd"}
    assert Speed.from_json(earlier) == Speed(precision="bf16", float32=("a",))
    missing = {name: value for name, value in whole.items() if name != "fused"}
    wrong = (
        {"threads": -1},
        {"float32": [1]},
        {"precision": "16"},
        {"fused": 1},
        {"warp": 9},
        {"float32": "a"},
        {"winograd": [None]},
    )
    for value in (None, [], missing, *({**whole, **each} for each in wrong)):
        with pytest.raises(BadCheckpoint):
            Speed.from_json(value)


def test_runs_from_before_have_their_settings_in_the_recipe() -> None:
    old = {**Recipe().to_json(), "precision": "bf16", "channels_last": False}
    found = Speed.of_run({"recipe": old})
    assert (found.precision, found.channels_last, found.float32) == ("bf16", False, ())
    assert Recipe.from_json(old) == Recipe()
    with pytest.raises(BadCheckpoint, match="precision"):
        Speed.of_run({"recipe": {**old, "precision": "half"}})


def test_precision_is_no_setting_of_a_recipe_any_more() -> None:
    with pytest.raises(UsageError, match="--precision"):
        Recipe().with_settings({"precision": "bf16"})


# --- the process ------------------------------------------------------------------------------------------

BLOCK = """
import ctypes, json, sys
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                 "uordblks", "fordblks", "keepcost")]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
def mapped():
    "Whether a block of 100 MB is mapped, and so given back when it is freed: what glibc does by itself."
    before = libc.mallinfo2().hblks
    return libc.malloc(100 * 2**20) is not None and libc.mallinfo2().hblks > before
"""


def child(program: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def glibc() -> Iterator[None]:
    import platform

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the allocator is not glibc's")
    return


@pytest.mark.usefixtures("glibc")
def test_only_the_process_that_keeps_memory_keeps_it() -> None:
    assert child("""
import os
before = dict(os.environ)
import convatlas.api, convatlas.train.tune
imported = mapped(), dict(os.environ) == before
from convatlas import allocator
kept = allocator.keep(), mapped()
allocator.as_usual()
print(json.dumps([*imported, *kept, mapped()]))
""") == [True, True, True, False, True]


@pytest.mark.usefixtures("glibc")
def test_a_process_that_recomputes_gives_every_block_back() -> None:
    # a block of 1 MiB that was freed raises glibc's threshold: the next one comes from the heap, which stays
    assert child("""
import torch
from convatlas.train.computed import arrange_memory
from convatlas.train.speed import Speed
small = 2**18
def freed():
    torch.ones(2**20 // 4), torch.ones(small // 4)
    before = resident()
    many = [torch.ones(small // 4) for _ in range(800)]
    pins = many[::2]  # every other one is held, so the heap cannot shrink
    del many
    return resident() - before < 1.2 * 400 * small
def resident():
    with open("/proc/self/statm") as lines:
        return int(lines.read().split()[1]) * 4096
usual = freed()
arrange_memory(Speed(recompute=True, memory="kept"))
print(json.dumps([usual, freed()]))
""") == [False, True]


@pytest.mark.usefixtures("glibc")
def test_data_workers_do_not_keep_memory() -> None:
    assert child("""
import numpy as np
from convatlas import allocator
from convatlas.data.workers import Workers
def fill(job, row, out):
    out[:] = mapped()
allocator.keep()
workers = Workers(1, fill, lambda job, row: "", (1, 1, 1, 1))
told = [bool(array.any()) for array in workers.run([(None, 1)])]
workers.close()
print(json.dumps([*told, mapped()]))
""") == [True, False]


@pytest.mark.parametrize("command", [["list", "lenet*"], ["describe", "lenet5"], ["--help"]])
def test_looking_at_networks_imports_no_training(command: list[str], tmp_path: Path) -> None:
    assert (
        child(f"""
import io, contextlib
from convatlas.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main.run({command})
print(json.dumps([name for name in sys.modules if name.startswith(
    ("convatlas.train", "convatlas.data", "convatlas.infer", "lightning_fabric", "torchmetrics", "sklearn"))]))
""")
        == []
    )
