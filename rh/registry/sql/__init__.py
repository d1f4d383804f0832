"""Registries in SQL databases: what they share, one file of SQLite, a schema of PostgreSQL."""
