"""What object stores share: pooled HTTP, the verbs, a bucket seen from a prefix, objects in parts, refusals."""
