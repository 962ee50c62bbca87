"""From stores to batches on the device."""
