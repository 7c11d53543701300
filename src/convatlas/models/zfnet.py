"""ZFNet: AlexNet, corrected after looking inside (Zeiler & Fergus, 2013).

Deconvolution showed what AlexNet's units see: the 11x11 filters of conv1 mix very high and very low frequencies with
little between them, and its stride of 4 leaves aliasing in conv2. So conv1 becomes 7x7 with stride 2, and conv2 takes
over a stride of 2. There are no groups, as the network fits on one graphics card.

The paper then removes and widens layers of both networks (table 3). `ABLATION` has the rows as settings of
`alexnet_2gpu` and `zfnet`; the widest convolutions, `zfnet_wide`, are best.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from convatlas.models.alexnet import AlexNet, Conv, Layout
from convatlas.registry import Paper, Published, register

WIDE = (512, 1024, 512)  # channels of conv3, conv4 and conv5

# Pooling rounds up, which gives the 55, 13 and 6 pixels of figure 3. All biases start from 0 (section 3).
LAYOUT = Layout(
    (
        Conv(96, 7, stride=2, padding=1),
        Conv(256, 5, stride=2),
        Conv(384, 3, padding=1),
        Conv(384, 3, padding=1),
        Conv(256, 3, padding=1),
    ),
    ceil_mode=True,
)


class Row(NamedTuple):
    """A row of table 3: a network, its settings, and the errors printed, in percent of ILSVRC-2012."""

    network: str
    settings: dict[str, Any]
    train_top1: float
    val_top1: float
    val_top5: float


ABLATION = {
    "Krizhevsky et al., replicated": Row("alexnet_2gpu", {}, 35.1, 40.5, 18.1),
    "... without layers 3, 4": Row("alexnet_2gpu", {"removed": (3, 4)}, 41.8, 45.4, 22.1),
    "... without layer 7": Row("alexnet_2gpu", {"removed": (7,)}, 27.4, 40.0, 18.4),
    "... without layers 6, 7": Row("alexnet_2gpu", {"removed": (6, 7)}, 27.4, 44.8, 22.4),
    "... without layers 3, 4, 6, 7": Row("alexnet_2gpu", {"removed": (3, 4, 6, 7)}, 71.1, 71.3, 50.1),
    "... layers 6, 7: 2048 units": Row("alexnet_2gpu", {"hidden": 2048}, 40.3, 41.7, 18.8),
    "... layers 6, 7: 8192 units": Row("alexnet_2gpu", {"hidden": 8192}, 26.8, 40.0, 18.1),
    "ZFNet": Row("zfnet", {}, 33.1, 38.4, 16.5),
    "ZFNet, layers 6, 7: 2048 units": Row("zfnet", {"hidden": 2048}, 38.2, 40.2, 17.6),
    "ZFNet, layers 6, 7: 8192 units": Row("zfnet", {"hidden": 8192}, 22.0, 38.8, 17.0),
    "ZFNet, layers 3, 4, 5: 512, 1024, 512 maps": Row("zfnet", {"middle": WIDE}, 18.8, 37.5, 16.0),
    "ZFNet, both": Row("zfnet", {"hidden": 8192, "middle": WIDE}, 10.0, 38.3, 16.9),
}

PAPER = Paper(
    "Visualizing and Understanding Convolutional Networks",
    year=2013,
    authors="Zeiler, Fergus",
    arxiv="1311.2901",
)
TEST = "ILSVRC-2012 val, 10-crop"
for name, middle, (top1, top5), others, summary in (
    (
        "zfnet",
        None,
        ("38.4", "16.5"),
        {
            "ILSVRC-2012 val, 6 networks averaged, top-5": "14.7",
            "ILSVRC-2012 test, 6 networks averaged, top-5": "14.8",
        },
        "AlexNet with a finer conv1: 7x7 and stride 2",
    ),
    (
        "zfnet_wide",
        WIDE,
        ("37.5", "16.0"),
        {"ILSVRC-2012 test, top-5": "16.1"},
        "the same with 512, 1024 and 512 maps in layers 3, 4 and 5",
    ),
):
    register(
        name,
        partial(AlexNet, LAYOUT, order="pool-norm", middle=middle),
        paper=PAPER,
        family="zfnet",
        image=224,
        smallest=47,
        published=Published(
            top1_error_pct=top1,
            top5_error_pct=top5,
            layers=8,
            test=TEST,
            other_errors_pct=others,
            source="tables 2 and 3",
        ),
        summary=summary,
    )
