"""Which network to train when nobody has said: a function of image size, colour and count."""

from __future__ import annotations

from convatlas.data import Data


def network(data: Data) -> tuple[str, int, str]:
    """Name, image size in pixels, and the reason in a sentence.

    A small network where images are small or few: it trains in minutes on two cores, and from scratch a
    larger one would learn the training images by heart.
    """
    side, count = data.typical_side(), len(data.train)
    colour = "grey" if data.channels == 1 else "colour"
    seen = f"{count:,} {colour} training images of typically {side} px"
    if side <= 40 and data.channels == 1:
        return "lenet5", 32, f"{seen}: lenet5, made for small grey symbols, at its 32 px"
    if side <= 64:
        size = 32 if side <= 40 else 64
        if count > 100_000:
            return (
                "resnet56_cifar",
                size,
                f"{seen}: resnet56_cifar, as small images in such number carry 56 layers",
            )
        return "resnet20_cifar", size, f"{seen}: resnet20_cifar, made for small images, at {size} px"
    if count < 2_000:
        return "resnet18", 128, f"{seen}: resnet18 at 128 px, as so few images do not support more"
    if count < 50_000:
        return "resnet18", 224, f"{seen}: resnet18 at 224 px"
    return "resnet50", 224, f"{seen}: resnet50 at 224 px, as there are images enough"
