"""Side chunks of PNG files: no pixel depends on them, and Pillow refuses a whole image for some."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_EXPANDED = 1_000_000
"""Bytes of one expanded text that is kept; Pillow's limit is 1 MiB."""
MOST_OF_ALL = 8_000_000
"""The same for all of a file; Pillow's limit is 64 MiB."""

# Transparency, orientation (also in texts), and the frames of an animation.
_USED = (b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT")


def without_side_chunks(content: bytes) -> bytes:
    """Return a PNG file without the side chunks that are not used, damaged or too large.

    Diffusion programs write texts of megabytes, and editors large ICC profiles. Chunks that hold
    pixels are kept as they are, and so is what follows a chunk that is cut short.
    """
    dropped: list[tuple[int, int]] = []
    expanded, place = 0, len(SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 12 + length
        if end > len(content):
            break
        kind = content[place + 4 : place + 8]
        if kind[:1].islower():  # no pixel depends on it
            data = content[place + 8 : end - 4]
            size = _expanded_size(kind, data)
            is_whole = zlib.crc32(kind + data) == int.from_bytes(content[end - 4 : end])
            is_small = size <= MOST_EXPANDED and expanded + size <= MOST_OF_ALL
            if kind in _USED and is_whole and is_small:
                expanded += size
            else:
                dropped.append((place, end))
        place = end
    if not dropped:
        return content
    starts = [0, *(end for _, end in dropped)]
    ends = [*(start for start, _ in dropped), len(content)]
    return b"".join(content[start:end] for start, end in zip(starts, ends, strict=True))


def _expanded_size(kind: bytes, data: bytes) -> int:
    """Return the number of bytes of a text, or a number above `MOST_EXPANDED`; 0 of no text."""
    if kind == b"tEXt":
        return len(data)
    if kind not in (b"zTXt", b"iTXt"):
        return 0
    parts = data.split(b"\0", 1)
    if kind == b"iTXt":
        # A keyword, two bytes (compressed or not, and how), a language, the keyword in it.
        if len(parts) < 2 or parts[1][:1] != b"\1":
            return len(data)
        rest = parts[1][2:].split(b"\0", 2)
        packed = rest[2] if len(rest) == 3 else b""
    else:
        packed = parts[1][1:] if len(parts) == 2 else b""
    try:
        return len(zlib.decompressobj().decompress(packed, MOST_EXPANDED + 1))
    except zlib.error:
        return len(packed)
