"""Feature stores: one Zarr v3 group for one dataset, backbone and view (see cache/README.md)."""
