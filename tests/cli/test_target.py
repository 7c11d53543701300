"""Targets: where a network comes from, what it is asked about, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.cli.target import parse_shape, resolve
from convatlas.data import open_data
from convatlas.errors import BadCheckpoint, UsageError
from convatlas.infer import Run
from convatlas.measure import measure
from convatlas.models import find, list_models
from convatlas.train import begin

FILE = '''
import torch
from torch import nn
from parts import block                # a neighbour of the file

def make_net(width=8, num_classes=10):
    return nn.Sequential(block(width), nn.Flatten(), nn.LazyLinear(num_classes)) if width < 0 else block(width)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 2)

    def forward(self, x):
        return self.fc(x)

def draws():
    """Its constructor decides by a tensor's value, so it cannot be built on meta alone."""
    return nn.Conv2d(int(torch.tensor([3]).sum()), 4, 1)

def looks():
    """And this one by a weight's value."""
    layer = nn.Conv2d(3, 4, 1)
    assert float(layer.weight.abs().sum()) > 0
    return layer

def sound():
    return nn.Conv1d(1, 4, 9)

def wants(width):
    return nn.Linear(width, 2)

def fails():
    return nn.Linear(10, 1 // 0)

def leaves():
    raise SystemExit(3)

net = Net()
number = 3
'''


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "parts.py").write_text(
        "from torch import nn\ndef block(width): return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU())\n"
    )
    file = tmp_path / "net.py"
    file.write_text(FILE)
    return str(file)


def is_meta(model: nn.Module) -> bool:
    return all(parameter.is_meta for parameter in model.parameters())


# --- networks --------------------------------------------------------------------------------------------------


def test_a_network_of_the_canon() -> None:
    found = resolve("vgg16", classes=10, image_size=64)
    assert (found.name, found.input_shape, found.origin) == ("vgg16", (3, 64, 64), "canon")
    assert found.spec is find("vgg16")
    assert is_meta(found.model)
    assert found.model.num_classes == 10
    assert resolve("lenet5").input_shape == (1, 32, 32)
    assert resolve("resnet18", input_shape=(1, 64, 48)).model.features.conv1.conv.in_channels == 1  # type: ignore[union-attr]
    assert resolve("resnet50", options={"shortcut": "B"}).input_shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("name", "shape", "params"),
    [  # figures of torchvision's own documentation
        ("regnet_y_400mf", (3, 224, 224), 4_344_144),  # refuses the meta device
        ("vit_h_14", (3, 224, 224), None),
        ("inception_v3", (3, 299, 299), 27_161_264),
        ("fcn_resnet50", (3, 520, 520), None),
        ("r3d_18", (3, 16, 112, 112), 33_371_472),
        ("fasterrcnn_resnet50_fpn", (3, 800, 800), None),
    ],
)
def test_a_network_of_torchvision(name: str, shape: tuple[int, ...], params: int | None) -> None:
    found = resolve(f"torchvision:{name}")
    assert (found.name, found.input_shape) == (f"torchvision:{name}", shape)
    assert (found.spec, found.origin) == (None, "torchvision")
    assert is_meta(found.model)
    if params:
        assert sum(p.numel() for p in found.model.parameters()) == params


def test_torchvision_takes_sizes_classes_and_settings() -> None:
    assert resolve("torchvision:vit_b_16", image_size=160).model.image_size == 160
    found = resolve("torchvision:resnet18", classes=7, image_size=96, options={"width_per_group": 64})
    assert found.model.fc.out_features == 7
    assert found.input_shape == (3, 96, 96)


def test_a_network_of_timm() -> None:
    found = resolve("timm:botnet26t_256", channels=1, classes=5)
    assert (found.input_shape, found.origin) == ((1, 256, 256), "timm")
    assert is_meta(found.model)
    assert found.model.num_classes == 5
    assert measure(found.model, found.input_shape).rows[-1].output_shape == (5,)
    assert resolve("timm:vit_tiny_patch16_224", image_size=160).input_shape == (3, 160, 160)


def test_without_timm_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match="pip install timm"):
        resolve("timm:dla34")


def test_networks_from_elsewhere_are_not_registered(net: str) -> None:
    before = list_models()
    for text in ("torchvision:swin_t", "timm:dla34", f"{net}:make_net"):
        resolve(text)
    assert list_models() == before


# --- a file of the user's --------------------------------------------------------------------------------------


def test_functions_classes_and_modules_of_a_file(net: str) -> None:
    found = resolve(f"{net}:make_net")
    assert (found.name, found.input_shape, found.origin) == ("net.py:make_net", (1, 224, 224), "file")
    assert is_meta(found.model)
    assert resolve(f"{net}:make_net", image_size=28, options={"width": 3}).model[0].out_channels == 3  # type: ignore[index]
    assert resolve(f"{net}:Net").input_shape == (10,)
    assert not is_meta(resolve(f"{net}:net").model)  # it was built when the file was imported
    assert resolve(f"{net}:wants", options={"width": 6}).input_shape == (6,)
    assert resolve(f"{net}:sound", input_shape=(1, 400)).input_shape == (1, 400)


def test_constructors_that_look_at_values_are_built_with_them(net: str) -> None:
    assert is_meta(resolve(f"{net}:draws").model)
    assert not is_meta(resolve(f"{net}:looks").model)
    assert not is_meta(resolve(f"{net}:make_net", real=True).model)


def test_the_process_stays_as_it_was(net: str) -> None:
    path, state = list(sys.path), torch.get_rng_state()
    resolve(f"{net}:looks")
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{net}:fails", ["line {1 // 0}", "ZeroDivisionError"]),
        ("{net}:leaves", ["line {SystemExit}"]),
        ("{net}:wants", ["'width'", "--option"]),
        ("{net}:make_nut", ["make_net", "no 'make_nut'"]),
        ("{net}:number", ["net.py:number is 3", "function"]),
        ("{net}:torch", ["function, a class or a module"]),
        ("{net}", [":NAME", "make_net", "Net"]),
        ("{net}:sound", ["--input-shape"]),
        ("{folder}/no.py:make", ["no file", "no.py"]),
        ("{folder}/bad.py:make", ["bad.py, line 2"]),
        ("{folder}/lost.py:make", ["lost.py, line 3", "nowhere"]),
        ("{folder}/three.py:make", ["gives 3 (int)", "torch.nn.Module"]),
    ],
)
def test_what_is_wrong_with_a_file(text: str, words: list[str], net: str) -> None:
    folder = Path(net).parent
    (folder / "bad.py").write_text("x = 1\ndef make(:\n")
    (folder / "lost.py").write_text("import sys\n\nimport nowhere\n")
    (folder / "three.py").write_text("make = lambda: 3\n")
    with pytest.raises(UsageError) as said:
        resolve(text.format(net=net, folder=folder))
    for word in words:
        if "{" in word:  # the line that holds these words
            line = next(n for n, text in enumerate(FILE.splitlines(), 1) if word[6:-1] in text)
            word = f"line {line} "
        assert word in str(said.value)


# --- a run -----------------------------------------------------------------------------------------------------


def test_a_run_with_its_size_and_at_wish_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begin(open_data("digits"), model="lenet5", settings={"epochs": 1, "resize": "squash"}, out=folder)
    found = resolve(str(folder))
    assert (found.input_shape, found.origin, found.spec) == ((1, 32, 32), "run", find("lenet5"))
    assert is_meta(found.model)
    assert measure(found.model, found.input_shape).rows[-1].output_shape == (10,)
    trained = Run.load(folder, device="cpu").model.state_dict()
    real = resolve(str(folder), real=True).model.state_dict()
    assert all(torch.equal(real[name], trained[name]) for name in trained)
    with pytest.raises(UsageError, match="as it was trained"):
        resolve(str(folder), classes=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match="no run"):
        resolve(str(tmp_path / "empty"))


# --- names that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vgg61", ["'vgg16'", "convatlas list", "timm:NAME"]),
        ("swin_t", ["torchvision:swin_t"]),
        ("torchvision:resnet55", ["'resnet50'"]),
        ("timm:resnet55", ["'resnet50'"]),
        ("runs/nothing", ["no network 'runs/nothing'", "folder of a run"]),
        ("", ["no network ''"]),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as said:
        resolve(text)
    for word in words:
        assert word in str(said.value)


def test_wishes_that_cannot_be() -> None:
    with pytest.raises(UsageError, match=r"FILE\.py:FUNCTION"):
        resolve("torchvision:resnet18", channels=1)
    with pytest.raises(UsageError, match="widht"):
        resolve("torchvision:resnet18", options={"widht": 2})
    with pytest.raises(UsageError, match="says size and channels"):
        resolve("vgg16", input_shape=(3, 32, 32), image_size=64)
    with pytest.raises(UsageError, match="3,224,224"):
        resolve("vgg16", input_shape=(16000,))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("3,224,224", (3, 224, 224)),
        ("1x16000", (1, 16000)),
        ("(3, 8, 64, 64)", (3, 8, 64, 64)),
        ("10", (10,)),
    ],
)
def test_shapes_are_read(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "3,0,4", "3,-1", "3;4", "three", "3,,4", "1.5,2"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="3,224,224"):
        parse_shape(text)
