"""speedrun: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", and what makes it cheaper on a processor.

`convatlas train CIFAR10 --recipe speedrun`, then `convatlas eval RUN --views shift`

PAPER, `speedrun-2024`, is the author's variant with Muon, published after the paper: the network, whitened by training
images and the whitening held; 8 epochs in batches of 2000; filters by Muon (rate 0.24, momentum 0.6, three iterations,
norm kept), the rest by SGD with Nesterov's momentum 0.85; rates falling linearly to 0, the bias of the whitening held
after 3/8; label smoothing 0.2; shift by 2 pixels with reflected borders; alternating mirroring; six views at test time.
There the loss is the sum over a batch, and rates are 0.053 for biases and 0.67 for the classifier. Here it is the mean:
the rates below are 2000 times theirs, as factors of Muon's. The decay is theirs, 2e-6 a sample.

RECIPE, `speedrun`, is the same but for our choices:

- Batches of 500. A graphics card needs large batches to be busy; a processor does not, and 900 small steps go further
  than 200 large ones. Rates are those of the smaller batch, and momentum of what Muon does not move lasts longer. A
  share of 0.12 in BatchNorm's running statistics is as fast as the paper's 0.4 is for batches four times as large.
- The wide convolutions learn by Winograd's algorithm, with about a third of the multiplications.
- Nine epochs. The network sees windows of 25 pixels at a random place for three of them, of 28 for two, and 32 with a
  reflected border for the last four. With 25 pixels an inner map has 6 x 6, four of Winograd's tiles.
- The first block is held in the last two epochs, when rates are all but 0: a quarter of those steps.
- Label smoothing of 0.1, half of theirs.
- Only the last epoch is validated, where there are images for it: both learn all of train, unless --val-share holds
  some out.

See the documentation's page on the speedrun for what was measured.
"""

from dataclasses import replace

from convatlas.train.recipe import Recipe

BATCH = 2000
RATE = 0.24  # of the filters
WHITENING = ("features.whiten.*", 3 / 8)

PAPER = Recipe(
    name="speedrun-2024",
    source="Jordan 2024, arXiv 2404.00498, and its author's later variant with Muon",
    network="speedrun_cifar",
    init="whitening",
    epochs=8,
    batch_size=BATCH,
    optimizer="muon",
    lr=RATE,
    muon_momentum=0.6,
    muon_steps=3,
    muon_keeps_norm=True,
    momentum=0.85,
    nesterov=True,
    rates=(("head.*", 0.67 * BATCH / RATE), ("*.bias", 0.053 * BATCH / RATE)),
    weight_decay=2e-6 * BATCH / RATE,
    schedule="linear",
    hold_from=(WHITENING,),
    label_smoothing=0.2,
    image_size=32,
    resize="squash",
    crop="shift",
    shift_px=2,
    edge="reflect",
    flip=True,
    alternate_flip=True,
    val_share=0,
)

SMALL_BATCH = 500
SMALL_RATE = 0.12

RECIPE = replace(
    PAPER,
    name="speedrun",
    source="Jordan 2024, arXiv 2404.00498, and its author's later variant with Muon; small batches, windows, "
    "Winograd's algorithm and less smoothing are ours",
    options=(("norm_momentum", 0.12), ("winograd", True)),
    epochs=9,
    batch_size=SMALL_BATCH,
    lr=SMALL_RATE,
    momentum=0.9,
    rates=(("head.*", 0.67 * SMALL_BATCH / SMALL_RATE), ("*.bias", 0.053 * SMALL_BATCH / SMALL_RATE)),
    weight_decay=2e-6 * SMALL_BATCH / SMALL_RATE,
    hold_from=(WHITENING, ("features.block1.*", 7 / 9)),
    label_smoothing=0.1,
    sizes=((0, 25), (1 / 3, 28), (5 / 9, 32)),
    shrink="window",
    validate_every=9,
)
