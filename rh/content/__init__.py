"""What the bytes are: manifests, tree digests, names that a target can hold, patterns, digests remembered."""
