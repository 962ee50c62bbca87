"""Image and mask files to uint8 and bool arrays; resizing; deterministic views."""
