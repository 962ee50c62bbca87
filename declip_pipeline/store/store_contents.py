"""All that a complete store holds, for making another like it."""

from collections.abc import Iterator, Sequence

import numpy as np

from declip_pipeline.errors import StoreError
from declip_pipeline.files import sha256_of_bytes, sha256_of_json
from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store, is_single_file
from declip_pipeline.store.records_verification import DamagedRecordError, parse_completion


def read_records(store: Store) -> dict[str, bytes]:
    """Every file of a store that is not a shard, byte for byte, by key.

    Raises `StoreError` for one that is missing, or not what `complete.json` says of it.
    """
    remedy = f"run `declip-pipe cache verify {store.location} --repair`"
    if is_single_file(store.location):
        remedy = "export it again"
    blob = store.source.read_blob(fmt.COMPLETE) or b""
    try:
        completion = parse_completion(blob)
    except DamagedRecordError as error:
        raise StoreError(f"{store.location}: its {fmt.COMPLETE} {error}; {remedy}") from error
    ledger = [fmt.ledger_key(shard) for shard in range(store.header.shards)]
    records: dict[str, bytes] = {}
    for key in [*completion.metadata_sha256, *ledger]:
        found = store.source.read_blob(key)
        if found is None:
            raise StoreError(f"{store.location} lacks its {key}; {remedy}")
        records[key] = found
    digests = {key: sha256_of_bytes(records[key]) for key in records}
    for key, expected in completion.metadata_sha256.items():
        if digests[key] != expected:
            raise StoreError(
                f"{store.location}: its {key} was edited, its SHA-256 is not that in "
                f"{fmt.COMPLETE}; {remedy}"
            )
    if sha256_of_json({key: digests[key] for key in ledger}) != completion.ledger_sha256:
        raise StoreError(
            f"{store.location}: its ledger was edited, its SHA-256 is not that in "
            f"{fmt.COMPLETE}; {remedy}"
        )
    return records | {fmt.COMPLETE: blob}


def usable_rows(store: Store, shard: int) -> list[int]:
    """The rows of a shard that have data."""
    return [row for row in store.header.shard_rows(shard) if row not in store.failures]


def row_values(store: Store, name: str, rows: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows of a sharded array, one by one, masks at the size of their picture.

    Masks are read one at a time: large ones take more memory than all else of a shard.
    """
    if name == "masks":
        for row in rows:
            yield store.read_masks(np.asarray([row]))[0]
    elif rows:
        yield from store.read_array(name, np.asarray(rows))
