"""Worker processes: opening a Dask cluster, and running tasks on its workers."""
