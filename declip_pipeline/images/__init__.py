"""Pictures and masks: from files of any mode to uint8 arrays, and from arrays to sizes."""
