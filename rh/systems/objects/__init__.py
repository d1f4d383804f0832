"""What object stores share: an HTTP client over pooled connections, refusals and their errors, places of a process."""
