"""The arithmetic of one training step: loss and optimizer."""

import torch
import torch.nn.functional as F

from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.feeding.layer_feed import Batch


def training_loss(decoder: Decoder, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy with logits, mean over all pixels of the batch (DeCLIP, section 3)."""
    return F.binary_cross_entropy_with_logits(decoder(batch.features), batch.targets)


def make_optimizer(decoder: Decoder, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW, betas 0.9 and 0.999, no weight decay: the reference's."""
    return torch.optim.AdamW(
        decoder.parameters(), lr=learning_rate, betas=(0.9, 0.999), weight_decay=0.0, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
