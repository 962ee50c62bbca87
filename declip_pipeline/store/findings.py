"""What is found to be wrong with a store."""

from collections.abc import Iterable
from dataclasses import dataclass

from declip_pipeline.datasets.samples import Samples


@dataclass(frozen=True)
class Problem:
    """One file of a store that is not what it should be.

    `what` says in one line how that was seen; `key` is the file's path within the store. Of a
    shard's file, `array` and `shard` are given (of a ledger entry, `shard` alone), with the `rows`
    that cannot be trusted and the paths of their pictures, `images`. `is_stray` says that the file
    is of the store's own making, but superfluous; `is_repairable` that `repair_store` can mend it.
    """

    what: str
    key: str
    array: str | None = None
    shard: int | None = None
    rows: tuple[int, ...] = ()
    images: tuple[str, ...] = ()
    is_repairable: bool = True
    is_stray: bool = False


class Findings:
    """The problems found so far; `samples` are the manifest's, which name the pictures of rows."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.samples = Samples.from_rows([])

    def add(
        self,
        what: str,
        key: str,
        array: str | None = None,
        shard: int | None = None,
        rows: Iterable[int] = (),
        *,
        is_repairable: bool = True,
        is_stray: bool = False,
    ) -> None:
        """Note a problem."""
        rows = tuple(sorted(rows))
        images = tuple(self.samples[row].image for row in rows)
        self.problems.append(
            Problem(what, key, array, shard, rows, images, is_repairable, is_stray)
        )
