"""`python -m benchmarks`: `rh` and its peers side by side, interleaved, in one run."""
