"""Names of folders, made out of what they hold."""

import re

# A file system takes 255 bytes a name; what stands beside it (a seed, an identity) needs room.
LONGEST = 100


def folder_name(text: str) -> str:
    """`text` as the name of one folder: letters, digits and `_.+-`, at most 100 bytes of UTF-8.

    Different texts may get the same name: an identity must stand beside or below it.
    """
    kept = re.sub(r"[^\w.+\-]+", "-", text).strip("-")
    cut = kept.encode()[:LONGEST].decode(errors="ignore")
    return cut if cut.strip(".") else "unnamed"
