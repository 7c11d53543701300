"""vgg-2014: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition".

`convatlas train IMAGES --model vgg16 --recipe vgg-2014`

From section 3.1: batches of 256, momentum 0.9, weight decay 5e-4, dropout 0.5 on the first two fully
connected layers, learning rate 0.01 divided by 10 three times, 370,000 iterations (74 epochs); images
rescaled so that the shorter side is S, drawn from [256, 512], a random 224 x 224 crop, mirroring, a
random shift of colour along the principal components; the mean colour subtracted, pixels in [0, 255].
On four Titan Black boards a net took two to three weeks.

Our choice: the paper divides the rate when validation accuracy stops rising; here that is at 40, 60 and
80 % of the training.
"""

from convatlas.train.recipe import Recipe

RECIPE = Recipe(
    name="vgg-2014",
    source="Simonyan & Zisserman 2014, section 3.1; the moments of the three divisions are our choice",
    epochs=74,
    batch_size=256,
    optimizer="sgd",
    lr=0.01,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="steps",
    milestones=(0.4, 0.6, 0.8),
    image_size=224,
    crop="scale-jitter",
    scale_jitter=(256, 512),
    flip=True,
    pca=0.1,
    dropout=0.5,
    std=(1 / 255,),  # pixels stay in [0, 255]; the mean is that of the training images
)
