"""Claims that no code can check, and why: errors of trainings, history, words."""

from __future__ import annotations

from convatlas.audit.claims.rules import Stated
from convatlas.audit.lectures import Claim

TRAINING = Stated("needs the training")
OTHER = Stated("compares with a network that is not built here, and that the lecture does not count")
DRAWN = Stated("the paper does not print the layers, so nothing can be counted; the error needs the training")
FILE = Stated("the size of a compressed file: needs the training and the compression")
CLOCK = Stated("seconds and memory of machines of the time")
SETTING = Stated("a setting of the training, a choice that nothing else fixes")
EXPERIMENT = Stated("an experiment's layout: the number is chosen, not measured")
DETECTOR = Stated("a setting of the detector")
THUMB = Stated("a rule of thumb")
DATA = Stated("a fact about a data set")
HISTORY = Stated("a historical fact")
WORDS = Stated("a statement in words")
NAMED = Stated("names an example, a method or a tool")
SLIDE = Stated("counts what a slide shows")

# Every claim that has no rule, by the reason: its entry and the numbers there.
REASONS: dict[Stated, str] = {
    TRAINING: """
        relu-vs-tanh 1; mcdnn 2; alexnet 16 17; zfnet-ablation 1; vgg-family 8 9; nin 3 4 5 6; all-cnn-c 3 4
        5; googlenet 4 5 6; inception-v2-v3 4; plain-nets 3; degradation-experiment 3 4; shortcut-options 1;
        resnet-imagenet 4 5 6 10 11; resnet-cifar 2; preact-variants 1 2 3 4 5; preact-resnet 3;
        resnet-observations 3; prelu-net 1; wide-resnet 5; resnext 5 6 7 8 9 10; highway 4; fractalnet 3 4;
        drop-path 1; deeply-supervised-net 1 2; nas-rl 1 2; scalable-bayesian-optimisation 1; nasnet 1;
        efficientnet 2 4; simpnet-table6 4 5; linear-probing 2 3; texture-vs-shape 1 2 3; dead-relu 1;
        complexity-comparison 1; model-ensembles 1
    """,
    OTHER: """
        nasnet 3; efficientnet 3
    """,
    DRAWN: """
        nas-found-nets 2 3 4
    """,
    FILE: """
        squeezenet 2 3
    """,
    CLOCK: """
        lenet5-simplified 12; alexnet 21 22; nas-rl 3; simpnet-speed 1 2 3; fast-rcnn 3; complexity-comparison
        2
    """,
    SETTING: """
        dropout 5 6; losses 2; zfnet 5 6 7; vgg-pretrained-init 2; recipe-alexnet 2 3 4 6 7 8; recipe-zfnet 1
        2 3; recipe-googlenet 1 2 3; resnext 11; transfer-procedure 2; input-normalisation 1; aug-hflip 1;
        aug-random-crop 1 2; aug-translation 1; aug-scale 1 2; weight-decay 2; label-smoothing 1;
        early-stopping 1; test-time-crops 1; sgd-momentum 2; cifar100-case-study 7 8 9 10 11 12 13 14 15
    """,
    EXPERIMENT: """
        tensor-layout 4 5; weight-init-experiments 1 2 3 4 5 6 10; init-small-gaussian 1
    """,
    DETECTOR: """
        rcnn 1 2 3; selective-search 2; fast-rcnn 4 5; faster-rcnn 1
    """,
    THUMB: """
        vgg16-memory-ledger 24; transfer-procedure 3 5
    """,
    DATA: """
        lenet5-simplified 11; alexnet 19 20; datasets 1 2
    """,
    HISTORY: """
        neocognitron 1; mcdnn 3; alexnet 18; resnet-imagenet 15 16; senet 2; mobilenet-v2 4; zoo-mentions 2;
        sppnet 1; guided-backprop 1; init-orthogonal 1; init-random-walk 1; init-data-dependent 1; init-lsuv
        1; init-fixup 1; lottery-ticket 1; image-captioning 1
    """,
    WORDS: """
        pooling-max-avg 5; pooling-necessity-experiment 1; inception-v2-v3 1; squeezenet 4; nas-rl 4;
        simpnet-principles 1; selective-search 1; bbox-regression 1; rpn 1; mask-rcnn 1; roi-align 1; fpn 1;
        fcn 1; sliding-network 1; deconvnet 1; gradient-norm-diagnosis 1; init-constant 1; aug-pca-colour 1;
        aug-colour-rotation 4 5
    """,
    NAMED: """
        fixed-kernels 4; conv-1d-nd 1; transposed-convolution 2; losses 1; inception-v4 1; simpnet-speed 4;
        cam 1; embedding-views 1; semantic-levels 1; receptive-field-effective 1; texture-vs-shape 4;
        supervised-pretraining 1; aug-colour-rotation 1 2 3; aug-mixup 1; aug-distortion-mcdnn 1;
        polyak-averaging 1; rmsprop 1
    """,
    SLIDE: """
        agony-of-choice 1; resnet-observations 1 2; saf-pooling 1; dropout-dead-relu-figure 1; zoo-mentions 1;
        feature-map-views 1; top-patches 1 2; activation-maximisation 1; analysis-checklist 1;
        transfer-procedure 1; transfer-decision-matrix 1; cifar100-case-study 16; cifar-results-table 1 2;
        figure-catalogue 1
    """,
}


def _by_key() -> dict[str, Stated]:
    found: dict[str, Stated] = {}
    for why, rows in REASONS.items():
        for row in rows.split(";"):
            entry, *numbers = row.split()
            found.update((f"{entry} {number}", why) for number in numbers)
    return found


STATED = _by_key()


def reason(claim: Claim) -> Stated | None:
    """Why this claim cannot be computed; None if nothing says so."""
    return STATED.get(claim.key)
