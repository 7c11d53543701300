"""timm's weights, as data: convatlas does not need timm to read them.

For each network the tag of its default weights, and how their images are prepared. They lie on the Hugging Face
hub, in the repository `timm/NETWORK.TAG`, as `model.safetensors`. Each has a licence of its own there: some
forbid commercial use (`cc-by-nc`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Number3 = tuple[float, float, float]
IMAGENET: tuple[Number3, Number3] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Number3, Number3] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Row(NamedTuple):
    """Tag, side of the image in pixels, share of the resized side that is kept, filter, and (mean, deviation)."""

    tag: str
    side: int
    crop_ratio: float
    interpolation: Literal["bilinear", "bicubic"]
    normalisation: tuple[Number3, Number3] = IMAGENET
    resize: Literal["crop", "squash"] = "crop"


TIMM: dict[str, Row] = {
    "resnet18": Row("a1_in1k", 224, 0.95, "bicubic"),
    "resnet34": Row("a1_in1k", 224, 0.95, "bicubic"),
    "resnet50": Row("a1_in1k", 224, 0.95, "bicubic"),
    "resnet101": Row("a1h_in1k", 224, 0.95, "bicubic"),
    "resnet152": Row("a1h_in1k", 224, 0.95, "bicubic"),
    "resnext50_32x4d": Row("a1h_in1k", 224, 0.95, "bicubic"),
    "resnext101_32x4d": Row("fb_ssl_yfcc100m_ft_in1k", 224, 0.875, "bilinear"),
    "resnext101_32x8d": Row("tv_in1k", 224, 0.875, "bilinear"),
    "resnext101_64x4d": Row("c1_in1k", 224, 0.95, "bicubic"),
    "wide_resnet50_2": Row("racm_in1k", 224, 0.875, "bicubic"),
    "wide_resnet101_2": Row("tv_in1k", 224, 0.875, "bilinear"),
    "resnetv2_50": Row("a1h_in1k", 224, 0.95, "bicubic", HALF),
    "resnetv2_101": Row("a1h_in1k", 224, 0.95, "bicubic", HALF),
    "seresnet50": Row("a1_in1k", 224, 0.95, "bicubic"),
    "seresnext50_32x4d": Row("racm_in1k", 224, 0.875, "bicubic"),
    "seresnext101_32x4d": Row("gluon_in1k", 224, 0.875, "bicubic"),
    "senet154": Row("gluon_in1k", 224, 0.875, "bicubic"),
    "vgg11": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg13": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg16": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg19": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg11_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg13_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg16_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg19_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "densenet121": Row("ra_in1k", 224, 0.875, "bicubic"),
    "densenet161": Row("tv_in1k", 224, 0.875, "bicubic"),
    "densenet169": Row("tv_in1k", 224, 0.875, "bicubic"),
    "densenet201": Row("tv_in1k", 224, 0.875, "bicubic"),
    "inception_v3": Row("tv_in1k", 299, 0.875, "bicubic", HALF),
    "inception_v4": Row("tf_in1k", 299, 0.875, "bicubic", HALF),
    "inception_resnet_v2": Row("tf_in1k", 299, 0.8975, "bicubic", HALF),
    "mobilenetv1_100": Row("ra4_e3600_r224_in1k", 224, 0.875, "bicubic", HALF),
    "mobilenetv2_050": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "mobilenetv2_100": Row("ra_in1k", 224, 0.875, "bicubic"),
    "mobilenetv2_140": Row("ra_in1k", 224, 0.875, "bicubic"),
    "mnasnet_100": Row("rmsp_in1k", 224, 0.875, "bicubic"),
    "efficientnet_b0": Row("ra_in1k", 224, 0.875, "bicubic"),
    "efficientnet_b1": Row("ra4_e3600_r240_in1k", 240, 0.9, "bicubic", HALF),
    "efficientnet_b2": Row("ra_in1k", 256, 0.875, "bicubic"),
    "efficientnet_b3": Row("ra2_in1k", 288, 0.875, "bicubic"),
    "efficientnet_b4": Row("ra2_in1k", 320, 0.875, "bicubic"),
    "nasnetalarge": Row("tf_in1k", 331, 0.911, "bicubic", HALF),
}
