"""speedrun: draft."""

from convatlas.train.recipe import Recipe

RECIPE = Recipe(
    name="speedrun",
    source="Jordan 2024",
    network="speedrun_cifar",
    epochs=8,
    batch_size=2000,
    optimizer="muon",
    lr=0.24,
    muon_momentum=0.6,
    muon_steps=3,
    muon_keeps_norm=True,
    momentum=0.85,
    nesterov=True,
    rates=(("head.*", 0.67 * 2000 / 0.24), ("*.bias", 0.053 * 2000 / 0.24)),
    weight_decay=2e-6 * 2000 / 0.24,
    schedule="linear",
    label_smoothing=0.2,
    image_size=32,
    resize="squash",
    crop="shift",
    shift_px=2,
    edge="reflect",
    flip=True,
    alternate_flip=True,
    init="whitening",
    hold_from=(("features.whiten.bias", 3 / 8),),
    precision="bf16",
)
