"""Gates, one file each, registered by name with the number that orders them (see trading.decisions)."""
