"""Places of a layer during training: the fastest that it fits into."""

from pathlib import Path
from typing import Literal

import torch

from declip_pipeline.errors import UnknownNameError

Tier = Literal["device", "memory", "stream"]

TIERS: dict[Tier, str] = {
    "device": "held on the device",
    "memory": "held in memory",
    "stream": "streamed from the store",
}
"""The tiers, fastest first, and how to say them."""

# The rest is for the decoder, its gradients, and other programs.
SHARE_OF_FREE = 0.5


def choose_tier(needed_bytes: int, device: torch.device, tier: str = "auto") -> Tier:
    """The fastest tier that takes `needed_bytes`, or the one asked for by name.

    On the CPU, its memory is the device's. Raises `UnknownNameError`.
    """
    for known in TIERS:
        if tier == known:
            return "memory" if known == "device" and device.type == "cpu" else known
    if tier != "auto":
        raise UnknownNameError("tier", tier, ("auto", *TIERS))
    if device.type == "cuda" and needed_bytes <= SHARE_OF_FREE * _free_on(device):
        return "device"
    return "memory" if needed_bytes <= SHARE_OF_FREE * available_memory() else "stream"


def fast_bytes(device: torch.device) -> int:
    """Bytes that are kept rather than streamed, of a layer or of several."""
    free = [available_memory()]
    if device.type == "cuda":
        free.append(_free_on(device))
    return int(SHARE_OF_FREE * max(free))


def _free_on(device: torch.device) -> int:
    # What PyTorch keeps of what it let go of is free, too.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def available_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a process can still take: of the machine, and of the job's own limit."""
    lines = (proc / "meminfo").read_text().splitlines()
    found = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    available = int(found["MemAvailable"]) * 1024
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))
