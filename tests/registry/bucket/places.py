"""What the tests of registries on buckets share."""

import json

from rh import config


def configure(name, settings):
    """Settings of a system that other processes see as well."""
    lines = [f"[systems.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    config.home().mkdir(parents=True, exist_ok=True)
    (config.home() / "config.toml").write_text("\n".join(lines) + "\n")


def entries(place):
    return sorted(place.glob("log/*/*.json"))


def content(registry):
    return list(registry.list()), list(registry.changes())
