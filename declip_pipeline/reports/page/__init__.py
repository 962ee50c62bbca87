"""A report as one HTML page that asks for nothing else."""
