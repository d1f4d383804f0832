"""Versions: immutable trees, content-addressed, in a store beside the data.

`nodes` says what a directory of a version is, `store` keeps them, `system` shows a version as a system to read.
"""
