"""Pictures that are byte for byte the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from declip_pipeline.datasets.manifest import Manifest, Sample


@dataclass(frozen=True)
class Duplicates:
    """Sets of samples whose pictures have one content, sorted; a set is in one list only.

    `across_labels` are fake here and real there; `across_splits` are learned from and tested on;
    `within_split` count twice.
    """

    across_labels: tuple[tuple[Sample, ...], ...]
    across_splits: tuple[tuple[Sample, ...], ...]
    within_split: tuple[tuple[Sample, ...], ...]


def find_duplicates(manifest: Manifest, hashes: Mapping[str, str]) -> Duplicates:
    """Find pictures of one content, by the hashes of their files (`Manifest.content_hashes`)."""
    of_content: dict[str, list[Sample]] = {}
    for sample in manifest.samples:
        of_content.setdefault(hashes[sample.image], []).append(sample)
    labels, splits, within = [], [], []
    for samples in of_content.values():
        if len(samples) == 1:
            continue
        if len({sample.label for sample in samples}) > 1:
            labels.append(tuple(samples))
        elif len({sample.split for sample in samples}) > 1:
            splits.append(tuple(samples))
        else:
            within.append(tuple(samples))
    return Duplicates(tuple(labels), tuple(splits), tuple(within))
