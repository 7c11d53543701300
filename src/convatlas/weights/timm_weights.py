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
    "resnetv2_18": Row("ra4_e3600_r224_in1k", 224, 0.9, "bicubic", HALF),
    "resnetv2_34": Row("ra4_e3600_r224_in1k", 224, 0.9, "bicubic", HALF),
    "resnetv2_50": Row("a1h_in1k", 224, 0.95, "bicubic", HALF),
    "resnetv2_101": Row("a1h_in1k", 224, 0.95, "bicubic", HALF),
    "seresnet50": Row("a1_in1k", 224, 0.95, "bicubic"),
    "seresnext50_32x4d": Row("racm_in1k", 224, 0.875, "bicubic"),
    "seresnext101_32x4d": Row("gluon_in1k", 224, 0.875, "bicubic"),
    "seresnext101_32x8d": Row("ah_in1k", 224, 0.95, "bicubic"),
    "seresnext101_64x4d": Row("gluon_in1k", 224, 0.875, "bicubic"),
    "senet154": Row("gluon_in1k", 224, 0.875, "bicubic"),
    "skresnet18": Row("ra_in1k", 224, 0.875, "bicubic"),
    "skresnet34": Row("ra_in1k", 224, 0.875, "bicubic"),
    "vgg11": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg11_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg13": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg13_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg16": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg16_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg19": Row("tv_in1k", 224, 0.875, "bilinear"),
    "vgg19_bn": Row("tv_in1k", 224, 0.875, "bilinear"),
    "densenet121": Row("ra_in1k", 224, 0.875, "bicubic"),
    "densenet161": Row("tv_in1k", 224, 0.875, "bicubic"),
    "densenet169": Row("tv_in1k", 224, 0.875, "bicubic"),
    "densenet201": Row("tv_in1k", 224, 0.875, "bicubic"),
    "inception_v3": Row("tv_in1k", 299, 0.875, "bicubic", HALF),
    "inception_v4": Row("tf_in1k", 299, 0.875, "bicubic", HALF),
    "inception_resnet_v2": Row("tf_in1k", 299, 0.8975, "bicubic", HALF),
    "xception41": Row("tf_in1k", 299, 0.903, "bicubic", HALF),
    "xception65": Row("ra3_in1k", 299, 0.94, "bicubic", HALF),
    "xception71": Row("tf_in1k", 299, 0.903, "bicubic", HALF),
    "mobilenetv1_100": Row("ra4_e3600_r224_in1k", 224, 0.875, "bicubic", HALF),
    "mobilenetv1_125": Row("ra4_e3600_r224_in1k", 224, 0.9, "bicubic", HALF),
    "mobilenetv2_050": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "mobilenetv2_100": Row("ra_in1k", 224, 0.875, "bicubic"),
    "mobilenetv2_140": Row("ra_in1k", 224, 0.875, "bicubic"),
    "mobilenetv3_small_050": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "mobilenetv3_small_075": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "mobilenetv3_small_100": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "mobilenetv3_large_100": Row("ra_in1k", 224, 0.875, "bicubic"),
    "tf_mobilenetv3_small_075": Row("in1k", 224, 0.875, "bilinear", HALF),
    "tf_mobilenetv3_small_100": Row("in1k", 224, 0.875, "bilinear", HALF),
    "tf_mobilenetv3_large_075": Row("in1k", 224, 0.875, "bilinear", HALF),
    "tf_mobilenetv3_large_100": Row("in1k", 224, 0.875, "bilinear", HALF),
    "mnasnet_100": Row("rmsp_in1k", 224, 0.875, "bicubic"),
    "mnasnet_small": Row("lamb_in1k", 224, 0.875, "bicubic"),
    "semnasnet_075": Row("rmsp_in1k", 224, 0.875, "bicubic"),
    "semnasnet_100": Row("rmsp_in1k", 224, 0.875, "bicubic"),
    "efficientnet_b0": Row("ra_in1k", 224, 0.875, "bicubic"),
    "efficientnet_b1": Row("ra4_e3600_r240_in1k", 240, 0.9, "bicubic", HALF),
    "efficientnet_b2": Row("ra_in1k", 256, 0.875, "bicubic"),
    "efficientnet_b3": Row("ra2_in1k", 288, 0.875, "bicubic"),
    "efficientnet_b4": Row("ra2_in1k", 320, 0.875, "bicubic"),
    "efficientnet_b5": Row("sw_in12k_ft_in1k", 448, 1.0, "bicubic", resize="squash"),
    "tf_efficientnet_b0": Row("ns_jft_in1k", 224, 0.875, "bicubic"),
    "tf_efficientnet_b1": Row("ns_jft_in1k", 240, 0.882, "bicubic"),
    "tf_efficientnet_b2": Row("ns_jft_in1k", 260, 0.89, "bicubic"),
    "tf_efficientnet_b3": Row("ns_jft_in1k", 300, 0.904, "bicubic"),
    "tf_efficientnet_b4": Row("ns_jft_in1k", 380, 0.922, "bicubic"),
    "tf_efficientnet_b5": Row("ns_jft_in1k", 456, 0.934, "bicubic"),
    "tf_efficientnet_b6": Row("ns_jft_in1k", 528, 0.942, "bicubic"),
    "tf_efficientnet_b7": Row("ns_jft_in1k", 600, 0.949, "bicubic"),
    "tf_efficientnet_b8": Row("ap_in1k", 672, 0.954, "bicubic", HALF),
    "nasnetalarge": Row("tf_in1k", 331, 0.911, "bicubic", HALF),
    "pnasnet5large": Row("tf_in1k", 331, 0.911, "bicubic", HALF),
}
