"""What can be trained: an entry here and the code it names are all that a new one needs."""

from __future__ import annotations

from ffcore.errors import SettingError
from ffmodels.registry import Registry

# Facts: shape, number of classes, and images of the training and the test split, so that a study is planned without
# reading them. A data set without facts is read.
DATASETS = Registry(
    "dataset",
    {
        "mnist": (
            "fftrain.sources:mnist",
            "70,000 digits, 1x28x28",
            {"shape": (1, 28, 28), "classes": 10, "images": (60_000, 10_000)},
        ),
        "fashion-mnist": (
            "fftrain.sources:fashion_mnist",
            "70,000 garments, 1x28x28",
            {"shape": (1, 28, 28), "classes": 10, "images": (60_000, 10_000)},
        ),
        "svhn": (
            "fftrain.sources:svhn",
            "99,289 house numbers, 3x32x32",
            {"shape": (3, 32, 32), "classes": 10, "images": (73_257, 26_032)},
        ),
        "cifar10": (
            "fftrain.sources:cifar10",
            "60,000 photographs, 3x32x32",
            {"shape": (3, 32, 32), "classes": 10, "images": (50_000, 10_000)},
        ),
        "digits": (
            "fftrain.sources:digits",
            "1,797 digits of scikit-learn, embedded, enlarged to 1x28x28",
            {"shape": (1, 28, 28), "classes": 10, "images": (1_438, 359)},
        ),
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
        "hybrid": ("fftrain.pretext:Hybrid", "an image, or a hybrid of two (ff-unsupervised alone)"),
    },
)

# Facts: whether the backbone sees labels in the pixels, and the one task of a method that has no choice.
LABELS, NO_LABELS = {"reads_label": True}, {"reads_label": False}
METHODS = Registry(
    "method",
    {
        "ff": ("fftrain.objectives:ForwardForward", "Forward-Forward: a local loss in each layer", LABELS),
        "ff-unsupervised": (
            "fftrain.objectives:ForwardForwardUnsupervised",
            "Forward-Forward without labels: images against hybrids of two",
            {**NO_LABELS, "task": "hybrid"},
        ),
        "bp": ("fftrain.objectives:Backprop", "cross-entropy through all layers", NO_LABELS),
        "bp-goodness-last": (
            "fftrain.objectives:GoodnessLast",
            "FF's loss on the last layer, through all layers",
            LABELS,
        ),
        "bp-goodness-all": (
            "fftrain.objectives:GoodnessAll",
            "FF's loss summed over the layers, through all layers",
            LABELS,
        ),
    },
)


def task_of(method: str) -> str:
    """Returns the task that a method is trained on where none is named."""
    return str(METHODS[method].facts.get("task", "rotation"))


def fits(method: str, task: str) -> bool:
    """Whether a method can be trained on a task: one with a task of its own on that alone, and no other on it."""
    own = METHODS[method].facts.get("task")
    return task == own if own else all(task != entry.facts.get("task") for entry in METHODS.values())


def check_task(method: str, task: str) -> None:
    """Raises SettingError where a method cannot be trained on a task."""
    if fits(method, task):
        return
    own = METHODS[method].facts.get("task")
    if own:
        raise SettingError(f"--task is {task!r}, but --method {method} reads no pretext labels: leave --task out")
    others = ", ".join(name for name, entry in METHODS.items() if entry.facts.get("task") == task)
    raise SettingError(f"--task {task} is for --method {others} alone, not {method}: choose another task")
