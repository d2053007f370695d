"""What can be trained: an entry here and the code it names are all that a new one needs."""

from __future__ import annotations

from ffmodels.registry import Registry

DATASETS = Registry(
    "dataset",
    {
        "mnist": ("fftrain.sources:mnist", "70,000 digits, 1x28x28"),
        "fashion-mnist": ("fftrain.sources:fashion_mnist", "70,000 garments, 1x28x28"),
        "svhn": ("fftrain.sources:svhn", "99,289 house numbers, 3x32x32"),
        "cifar10": ("fftrain.sources:cifar10", "60,000 photographs, 3x32x32"),
        "digits": ("fftrain.sources:digits", "1,797 digits of scikit-learn, embedded, enlarged to 1x28x28"),
    },
)

TASKS = Registry(
    "task",
    {
        "rotation": ("fftrain.pretext:Rotation", "0, 90, 180 or 270 degrees"),
        "flip-h": ("fftrain.pretext:FlipH", "flipped horizontally or not"),
        "flip-v": ("fftrain.pretext:FlipV", "flipped vertically or not"),
        "flip-hv": ("fftrain.pretext:FlipHV", "none, horizontal, vertical, both"),
        "jigsaw": ("fftrain.pretext:Jigsaw", "the 24 orders of 2x2 patches"),
        "supervised": ("fftrain.pretext:Supervised", "the class label itself"),
    },
)

METHODS = Registry(
    "method",
    {
        "ff": ("fftrain.objectives:ForwardForward", "Forward-Forward: a local loss in each layer"),
        "bp": ("fftrain.objectives:Backprop", "cross-entropy through all layers"),
    },
)
