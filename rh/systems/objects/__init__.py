"""What the object stores share: obstore, a pooled HTTP transport, connections per process, streams."""
