"""`convatlas describe`: the lectures' ledger, every format, networks from anywhere, and what cannot be described."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_main import run

# VGG-16 as the lectures list it: numbers in memory as printed there, weights without biases.
LEDGER = [
    ("150K", 0), ("3.2M", 1_728), ("3.2M", 36_864), ("800K", 0), ("1.6M", 73_728), ("1.6M", 147_456), ("400K", 0),
    ("800K", 294_912), ("800K", 589_824), ("800K", 589_824), ("200K", 0), ("400K", 1_179_648), ("400K", 2_359_296),
    ("400K", 2_359_296), ("100K", 0), ("100K", 2_359_296), ("100K", 2_359_296), ("100K", 2_359_296), ("25K", 0),
    ("4096", 102_760_448), ("4096", 16_777_216), ("1000", 4_096_000),
]  # fmt: skip


@pytest.fixture
def convatlas(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `describe` prints when it succeeds."""

    def printed(*words: str) -> str:
        code = run("describe", *words)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return shown.out

    return printed


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def rounded(count: int) -> set[str]:
    """How the lectures print a count: "3.2M", "150K", "4096"; 800K stands for 802,816 and 784 K alike."""
    return {str(count), f"{count / 1e6:.1f}M", f"{round(count / 1000, -1):.0f}K", f"{round(count / 1000, -2):.0f}K",
            f"{count / 1000:.0f}K"}  # fmt: skip


# --- what it prints ----------------------------------------------------------------------------------------------


def test_vgg16_is_the_ledger_of_the_lectures_row_by_row(convatlas: Callable[..., str]) -> None:
    lines = [cells(line) for line in convatlas("vgg16").splitlines()]
    header = next(index for index, line in enumerate(lines) if line[0] == "layer")
    assert lines[header] == ["layer", "what", "output", "parameters", "MACs", "activations", "field"]
    kept = [line for line in lines[header + 1 : -1] if "in place" not in line]
    assert len(kept) == len(LEDGER)
    for line, (memory, weights) in zip(kept, LEDGER, strict=True):
        numbers = [int(cell.replace(",", "")) for cell in line if re.fullmatch(r"[\d,]+", cell)]
        numbers = numbers[1:] if line[1].startswith("linear") else numbers  # the output's size
        activations = numbers[2] if weights else numbers[0]
        assert memory in rounded(activations), line
        biases = int(line[2].split(" x ")[0])  # one for each channel or neuron of the output
        assert (numbers[0] - biases if weights else 0) == weights, line
    assert lines[-1] == ["total", "138,357,544", "15,470,264,320", "15,237,608"]
    assert f"{15_237_608 / 1e6:.2f}" == "15.24"
    assert ["receptive field", "212, stride 32"] in lines


def test_a_network_from_elsewhere_has_no_published_figures(convatlas: Callable[..., str]) -> None:
    out = convatlas("torchvision:regnet_y_400mf")
    assert "published" not in out
    assert "4,344,144" in out
    assert "401,842,848" in out


def test_depth_sums_rows_and_keeps_the_totals(convatlas: Callable[..., str]) -> None:
    stages = [cells(line) for line in convatlas("resnet18", "--depth", "stage").splitlines()]
    blocks = [cells(line) for line in convatlas("resnet18", "--depth", "block").splitlines()]
    layers = [cells(line) for line in convatlas("resnet18").splitlines()]
    assert stages[-1] == blocks[-1] == layers[-1]
    names = [line[0] for line in stages]
    assert names[names.index("layer") + 1 :] == [
        "input", "features.conv1", "features.pool1", "features.conv2_x", "features.conv3_x", "features.conv4_x",
        "features.conv5_x", "head", "total",
    ]  # fmt: skip
    assert "features.conv3_x.1" in [line[0] for line in blocks]
    assert convatlas("resnet18", "--depth", "2") == convatlas("resnet18", "--depth", "block")
    assert convatlas("resnet18", "--depth", "layer") == convatlas("resnet18")


def test_every_format_has_the_same_numbers(convatlas: Callable[..., str], tmp_path: Path) -> None:
    plain = json.loads(convatlas("timm:lcnet_050", "--json"))
    assert (plain["name"], plain["published"]) == ("timm:lcnet_050", {})
    rows = list(csv.DictReader(io.StringIO(convatlas("timm:lcnet_050", "--csv"))))
    assert [int(row["macs"]) for row in rows] == [row["macs"] for row in plain["rows"]]
    assert sum(int(row["params"]) for row in rows) == plain["params"] > 1_800_000
    total = f"**{plain['macs']:,}**"
    assert total in convatlas("timm:lcnet_050", "--markdown")
    file = tmp_path / "lcnet.html"
    assert convatlas("timm:lcnet_050", "--html", str(file)) == ""
    assert f"{plain['macs']:,}" in file.read_text()


def test_sizes_shapes_and_settings_reach_the_network(convatlas: Callable[..., str], tmp_path: Path) -> None:
    assert "3 x 64 x 64" in convatlas("torchvision:resnet18", "--image-size", "64")
    assert "1 x 40 x 30" in convatlas("resnet18", "--input-shape", "1,40,30")
    assert "25,557,032" not in convatlas("resnet50", "--option", "shortcut=A")
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "class Pair(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.fc = nn.Linear(10, 4)\n"
        "    def forward(self, left, right):\n"
        "        return {'sum': self.fc(left) + right, 'parts': [left, right]}\n"
        "sound = lambda: nn.Conv1d(1, 4, 9, stride=3)\n"
        "volume = lambda: nn.Conv3d(2, 4, 3)\n"
        "def held():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))\n"
        "    net[0].requires_grad_(False)\n"
        "    return net\n"
    )
    assert "4 x 2664" in convatlas(f"{file}:sound", "--input-shape", "1,8000")
    assert "4 x 2 x 6 x 6" in convatlas(f"{file}:volume", "--input-shape", "2,4,8,8")
    pair = convatlas(f"{file}:Pair", "--input-shape", "10", "--input-shape", "4")  # a dictionary comes out
    assert cells(pair.splitlines()[-1])[:3] == ["total", "44", "40"]
    held = convatlas(f"{file}:held")
    assert ["frozen parameters", "112"] in [cells(line) for line in held.splitlines()]
    assert cells(held.splitlines()[-1])[:3] == ["total", "297", "112"]


def test_what_nobody_can_count_is_said(convatlas: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\n"
        "class Spectrum(nn.Module):\n"
        "    def forward(self, image):\n"
        "        return torch.fft.fft2(image).real\n"
        "make = lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Spectrum())\n"
    )
    out = convatlas(f"{file}:make", "--image-size", "8")
    row = next(line for line in out.splitlines() if line.startswith("1 "))
    assert "?" in cells(row)
    assert ">= 768" in out.splitlines()[[line.split()[0:1] for line in out.splitlines()].index(["total"])]
    assert "Not counted, because nothing is known of them: _fft_" in out


# --- what cannot be described ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["vgg16", "--image-size", "16"], ["(3, 16, 16)", "features.pool5", "too small", "larger"]),
        (["torchvision:inception_v3", "--image-size", "32"], ["Mixed_6a", "too small"]),
        (["torchvision:raft_small"], ["2 arguments (image1, image2)", "--input-shape"]),
        (["{file}:Decides"], ["Decides", "values of its input", "take the decision out"]),
        (["{file}:Thin"], ["Thin", "in 'b'", "channel"]),
        (["vgg16", "--depth", "bloc"], ["stage, block, layer"]),
        (["vgg16", "--depth", "0"], ["from 1 on"]),
        (["vgg16", "--input-shape", "3;4"], ["3,224,224"]),
        (["vgg16", "--csv", "--json"], ["exclude one another"]),
        (["vgg16", "--input-shape", "3,9,9", "--image-size", "9"], ["--image-size"]),
        (["resnet50", "--option", "shortcut"], ["KEY=VALUE"]),
        (["resnet50", "--option", "shortcat=A"], ["'shortcut'"]),
        (["torchvision:swin_x"], ["swin"]),
        (["swin_t"], ["torchvision:swin_t"]),
    ],
)
def test_a_way_on_instead(
    words: list[str], hints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "class Decides(nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 4, 3)\n"
        "    def forward(self, image):\n"
        "        return super().forward(image) if image.mean() > 0 else image\n"
        "class Thin(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.a = nn.Conv2d(3, 4, 3); self.b = nn.Conv2d(8, 4, 3)\n"
        "    def forward(self, image):\n"
        "        return self.b(self.a(image))\n"
    )
    assert run("describe", *(word.format(file=file) for word in words)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1
    for hint in hints:
        assert hint in shown.err


# --- the page in the documentation -------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "measure.md").read_text()
BLOCKS = re.findall(r"```console\n\$ convatlas describe (.*?)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
def test_a_command_prints_what_the_documentation_says(
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "net.py").write_text(re.findall(r"```python\n# net\.py\n(.*?)```", PAGE, re.DOTALL)[0])
    run("describe", *command.split())
    printed = capsys.readouterr()
    assert [line.rstrip() for line in (printed.out or printed.err).splitlines()] == shown.splitlines()


def test_the_documentation_has_them() -> None:
    assert len(BLOCKS) == 6


def test_the_peak_of_memory_for_a_batch(convatlas: Callable[..., str]) -> None:
    shown = convatlas("resnet20_cifar", "--batch", "8", "--optimizer", "adamw")
    assert re.search(r"a pass of 8 images in fp32 +[\d.]+ MiB", shown)
    assert re.search(r"a training step of 8 images in fp32, adamw +[\d.]+ MiB", shown)
    found = json.loads(convatlas("resnet20_cifar", "--batch", "8", "--dtype", "bf16", "--json"))["memory"]
    step = found["a training step of 8 images in bf16, momentum"]
    assert step["parameters"] == step["gradients"] == step["optimizer"] == 2 * 269_722
    assert step["peak"] > found["a pass of 8 images in bf16"]["peak"]
    assert "Rough" not in shown


def test_memory_that_is_not_known_is_said_to_be_rough(convatlas: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.gru = nn.GRU(8, 4, batch_first=True)\n"
        "    def forward(self, x):\n"
        "        return self.gru(x)[0]\n"
    )
    assert "Rough: how much memory GRU takes" in convatlas(
        f"{file}:Net", "--input-shape", "5,8", "--batch", "4"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--batch", "8", "--optimizer", "adagrad"), "momentum"),
        (("--batch", "8", "--dtype", "int8"), "bf16"),
        (("--dtype", "bf16"), "--batch N"),
        (("--batch", "8", "--csv"), "--json"),
    ],
)
def test_wrong_wishes_about_memory(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("describe", "lenet5", *words) == 2
    assert says in capsys.readouterr().err
