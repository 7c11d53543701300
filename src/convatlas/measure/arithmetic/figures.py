"""Pictures of what this package works out: a convolution's matrix, fixed kernels at work, and a rounded region."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convatlas.errors import UsageError
from convatlas.measure.arithmetic import sketch
from convatlas.measure.arithmetic.convolution import FIXED_KERNELS, centred, cross_correlation
from convatlas.measure.arithmetic.matrix import ConvMatrix
from convatlas.measure.arithmetic.roi import Box, misalignment, sampling_points
from convatlas.plots import thumbnail


def matrix_figure(matrix: ConvMatrix, *, cell: int = 16) -> str:
    """W as a grid: empty where no weight stands, and the same letter and colour where the same weight does.

    Raises `UsageError` for more than 4096 numbers or 26 weights.
    """
    outputs, inputs = matrix.origin.shape
    if matrix.entries > 4096 or matrix.weight.numel() > 26:
        raise UsageError(f"{matrix.sentence()} At most 4,096 numbers and 26 weights can be drawn.")
    count = matrix.weight.numel()
    body = [sketch.words(12, 20, matrix.sentence(), anchor="start", size=12, bold=True)]
    for place in range(-1, count):
        corners = [(12 + c * cell, 32 + r * cell) for r, c in (matrix.origin == place).nonzero().tolist()]
        # Hues round the circle; dark letters stand on them in either theme.
        body.append(
            sketch.squares(corners, cell, f"hsl({360 * place / count:.0f} 62% 74%)" if place >= 0 else "none")
        )
        body += [
            sketch.words(
                x + cell / 2, y + cell * 0.72, chr(ord("a") + place), size=cell * 0.66, colour="#101418"
            )
            for x, y in corners
            if place >= 0
        ]
    width = max(24 + inputs * cell, 24 + 7.8 * len(matrix.sentence()))
    return sketch.sheet(width, 44 + outputs * cell, matrix.sentence(), body)


def sample_image(side: int = 48) -> Tensor:
    """A picture with flat parts, edges, a gradient and crosses: (side, side) in [0, 1]."""
    image = torch.full((side, side), 0.25)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image[(rows - side * 0.3) ** 2 + (columns - side * 0.3) ** 2 < (side * 0.18) ** 2] = 0.9
    image[int(side * 0.58) : int(side * 0.9), int(side * 0.1) : int(side * 0.45)] = 0.6
    image[:, int(side * 0.62) :] = torch.linspace(0.05, 0.95, side)[:, None]
    for top, left in ((0.15, 0.75), (0.5, 0.8), (0.68, 0.22)):
        i, j = int(side * top), int(side * left)
        image[i : i + 5, j + 2] = 1.0
        image[i + 2, j : j + 5] = 1.0
    return image


CROSS = ((0, 0, 1, 0, 0), (0, 0, 1, 0, 0), (1, 1, 1, 1, 1), (0, 0, 1, 0, 0), (0, 0, 1, 0, 0))


def kernels_figure(image: Tensor | None = None, *, side: int = 144) -> str:
    """An image (H, W) in [0, 1] and what each fixed kernel makes of it, with a template match at the end.

    Kernels whose numbers sum to 0 give negative numbers too: there middle grey is 0, and each panel has its own range.
    """
    image = sample_image() if image is None else image
    if image.dim() != 2:
        raise UsageError(f"an image (H, W) is drawn; {tuple(image.shape)} came.")
    kernels: dict[str, Tensor] = {name: torch.tensor(kernel) for name, kernel in FIXED_KERNELS.items()}
    panels = [("image", image, False)]
    panels += [
        (name, cross_correlation(image, kernel, padding=1), bool(kernel.sum() == 0))
        for name, kernel in kernels.items()
    ]
    panels.append(("match of a cross", cross_correlation(image, centred(CROSS), padding=2), True))
    columns = 4
    rows = -(-len(panels) // columns)
    body: list[str] = []
    for index, (name, pixels, signed) in enumerate(panels):
        x, y = 12 + (index % columns) * (side + 16), 12 + (index // columns) * (side + 38)
        pixels = pixels / (2 * pixels.abs().max()) + 0.5 if signed else pixels.clamp(0, 1)
        uri, _ = thumbnail((255 * pixels).round().numpy().astype(np.uint8)[..., None], side=max(image.shape))
        body.append(
            f'<image x="{x}" y="{y}" width="{side}" height="{side}" href="{uri}" style="image-rendering:pixelated"/>'
        )
        body.append(sketch.words(x + side / 2, y + side + 18, name))
    size = 8 + columns * (side + 16), 4 + rows * (side + 38)
    return sketch.sheet(*size, "An image and what fixed kernels make of it", body)


def roi_figure(
    box: Box, *, stride: int = 16, size: int = 2, places: tuple[int, int] = (9, 10), cell: int = 40
) -> str:
    """A box on a feature map of (rows, columns) places, what RoIPool takes for it, and where RoIAlign looks.

    `box` is xyxy in pixels of the image; a place of the map is drawn `cell` px wide and stands for `stride` pixels.
    """
    found, unit = misalignment(box, stride), cell / stride
    left, top = 14, 54
    grid = [(left + j * cell, top + i * cell) for i in range(places[0]) for j in range(places[1])]
    body = [sketch.squares(grid, cell, sketch.EMPTY)]
    x1, y1, x2, y2 = (side * unit for side in found.seen)
    body.append(sketch.frame(left + x1, top + y1, x2 - x1, y2 - y1, sketch.ORANGE, dashed=True))
    x1, y1, x2, y2 = (side * unit for side in box)
    body.append(sketch.frame(left + x1, top + y1, x2 - x1, y2 - y1, sketch.BLUE))
    for k in range(1, size):
        across, down = x1 + k * (x2 - x1) / size, y1 + k * (y2 - y1) / size
        body.append(sketch.line(left + across, top + y1, left + across, top + y2, sketch.BLUE))
        body.append(sketch.line(left + x1, top + down, left + x2, top + down, sketch.BLUE))
    for i in range(size):
        for j in range(size):
            for y, x in sampling_points(box, size, i, j, 1 / stride):
                # The middle of place 0 is half a cell from the corner.
                body.append(sketch.dot(left + (x + 0.5) * cell, top + (y + 0.5) * cell, sketch.BLUE))
    shift = ", ".join(f"{edge:+g}" for edge in found.shift)
    text = f"RoIPool: edges moved by {shift} px; overlap {found.overlap:.2f}"
    body.append(
        sketch.words(
            left,
            20,
            "RoIAlign: the box itself, and four points in each cell",
            anchor="start",
            colour=sketch.BLUE,
        )
    )
    body.append(sketch.words(left, 40, text, anchor="start", colour=sketch.ORANGE))
    width = max(2 * left + places[1] * cell, 2 * left + 7.4 * len(text))
    return sketch.sheet(width, top + places[0] * cell + left, text, body)
