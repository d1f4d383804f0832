"""Other libraries' APIs, implemented with `rh`."""
