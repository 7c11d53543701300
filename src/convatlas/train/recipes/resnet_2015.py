"""resnet-2015: He, Zhang, Ren & Sun, "Deep residual learning for image recognition", on ImageNet.

`convatlas train IMAGES --model resnet50_v1 --recipe resnet-2015`

From section 3.4: batches of 256, momentum 0.9, weight decay 1e-4, learning rate 0.1 divided by 10 when
the error stops falling, 600,000 iterations (120 epochs of ImageNet); the shorter side drawn from
[256, 480], a random 224 x 224 crop, mirroring, the colour shift of Krizhevsky et al.; no dropout.

Our choice: the divisions come at 30 and 60 of 90 parts of the training, and channels are normalised
by mean and standard deviation where the paper subtracts a mean per pixel.
"""

from convatlas.train.recipe import Recipe

RECIPE = Recipe(
    name="resnet-2015",
    source="He et al. 2015, section 3.4; the moments of the divisions and the division by the deviation are ours",
    epochs=120,
    batch_size=256,
    optimizer="sgd",
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="steps",
    milestones=(30 / 90, 60 / 90),
    image_size=224,
    crop="scale-jitter",
    scale_jitter=(256, 480),
    flip=True,
    pca=0.1,
)
