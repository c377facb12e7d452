"""Who merges and pushes: queue in, one feed per room, one ordered lane per conn server out."""
