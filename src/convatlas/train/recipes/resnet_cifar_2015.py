"""resnet-cifar-2015: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", on CIFAR-10.

`convatlas train CIFAR10 --model resnet20_cifar --recipe resnet-cifar-2015`

From section 4.2: batches of 128, momentum 0.9, weight decay 1e-4, learning rate 0.1 divided by 10 at
32,000 and 48,000 of 64,000 iterations (182 epochs of 45,000 images, 5,000 held out); 4 zero pixels
around the image, a random 32 x 32 crop, mirroring; no dropout. For 110 layers the paper starts with
0.01 until the training error is below 80 % (about 400 iterations): `--set warmup=0.00625 --set
warmup_start=0.1` rises over that time instead.

Our choice: channels are normalised by mean and standard deviation, where the paper subtracts a mean
per pixel.
"""

from convatlas.train.recipe import Recipe

RECIPE = Recipe(
    name="resnet-cifar-2015",
    source="He et al. 2015, section 4.2; the division by the deviation is our choice",
    epochs=182,
    batch_size=128,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(0.5, 0.75),
    image_size=32,
    resize="squash",
    crop="shift",
    shift_px=4,
    flip=True,
)
