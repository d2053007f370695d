"""InfoNCE with labels: each row is told from all others by those of its label. Letters: R rows, P width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ffmodels.projector import in_full_precision


def nce_loss(rows_RP: Tensor, labels_R: Tensor, temperature: float) -> Tensor:
    """Returns the loss of rows of which those of one label are positives, a scalar, at least float32.

    With z_i a row at length 1, S_ij = z_i . z_j / temperature and P(i) the other rows of its label,

        L = mean over i of  -1/|P(i)| sum_(p in P(i)) log( exp S_ip / sum_(j != i) exp S_ij ).

    A row that is alone with its label counts 0. Two views of each image, labelled by their image, give NT-Xent (Chen et
    al. 2020, arXiv 2002.05709); labelled by their class, SupCon (Khosla et al. 2020, arXiv 2004.11362, L_out).

    Args:
        rows_RP: float [R, P], of any length.
        labels_R: int64 [R].
        temperature: by which cosines are divided.
    """
    return in_full_precision(lambda rows: _loss(rows, labels_R, temperature), rows_RP)


def _loss(rows_RP: Tensor, labels_R: Tensor, temperature: float) -> Tensor:
    z = functional.normalize(rows_RP, dim=1, eps=1e-6)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    # Not -inf, of which a single row would have nothing else.
    cosines = (z @ z.T / temperature).masked_fill(itself, torch.finfo(z.dtype).min)
    log_shares = cosines - cosines.logsumexp(1, keepdim=True)
    positive = (labels_R[:, None] == labels_R) & ~itself
    told = log_shares.masked_fill(~positive, 0.0).sum(1) / positive.sum(1).clamp(min=1)
    return -told.mean()
