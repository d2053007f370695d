"""Images that views are tried on."""

from __future__ import annotations

import numpy as np
import torch


def images(count, channels=2, size=6):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8))
