"""Who we are on S3: whom boto3 would find, in the environment, profiles, SSO, roles or instance metadata.

boto3 takes a third of a second to import. Where there is nothing to find but keys, in the environment or in a profile
that has nothing else, they are read here, by the same rules; whatever says more than that is boto3's to understand.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from rh import plugins
from rh.errors import InvalidError, UnauthenticatedError
from rh.systems.base import Settings
from rh.systems.objects.failures import scrub
from rh.systems.objects.shared import flag
from rh.systems.s3.sign import Credentials

__all__ = ["identity", "plain_keys"]

Found: TypeAlias = tuple[Callable[[], Credentials | None], str | None, str | None]
"""Credentials at each moment (`None`: anonymous), the region, the endpoint."""

_PLAIN = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_CA_BUNDLE",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_PAGER",
    }
)
"""Variables that are understood here, or change nothing."""
_KEYS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})
_SECTION = re.compile(r"profile [^\s'\"\\#]+")
"""How profiles are named that need no quotes."""
_CONFIG = frozenset({"region", "output", "cli_pager"})


def identity(settings: Settings) -> Found:
    """Who we are and where, as boto3 finds it.

    Raises:
        UnauthenticatedError: there are no credentials, or they cannot be refreshed; the hint says how to get some.
        InvalidError: the profile does not exist.

    """
    plain = plain_keys(settings)
    if plain is not None:
        return plain
    boto3 = plugins.need("boto3.session", purpose="S3")
    core = plugins.need("botocore.session", purpose="S3")
    problems = plugins.need("botocore.exceptions")
    providers = plugins.need("botocore.configprovider")
    name = str(settings.get("name") or "s3")
    profile, file = settings.get("profile"), settings.get("credentials_file")
    login = f"aws sso login{f' --profile {profile}' if profile else ''}"
    try:
        session = core.Session(profile=profile or ("default" if file else None))
        if file:
            path = Path(str(file)).expanduser()
            try:
                path.open("rb").close()
            except OSError as error:
                gone = isinstance(error, FileNotFoundError)
                raise InvalidError(
                    "there is no such credentials file"
                    if gone
                    else f"the credentials file cannot be read: {error.strerror}",
                    where=str(path),
                    hint=f"systems.{name}.credentials_file",
                ) from error
            session.set_config_variable("credentials_file", str(path))
        region = session.get_config_variable("region") or os.environ.get("AWS_REGION")
        endpoint = providers.ConfiguredEndpointProvider(
            full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
        ).provide()
        if flag(settings.get("anonymous")):
            return (lambda: None), region, endpoint
        found = boto3.Session(botocore_session=session).get_credentials()
    except problems.ProfileNotFound as error:
        known = ", ".join(session.available_profiles) or "none"
        raise InvalidError(
            f"there is no AWS profile {profile!r}", where=name, hint=f"profiles here: {known}"
        ) from error
    except problems.BotoCoreError as error:
        raise UnauthenticatedError(f"no credentials: {scrub(str(error))}", where=name, hint=login) from error
    if found is None:

        def missing() -> Credentials | None:
            raise UnauthenticatedError(
                "no AWS credentials were found",
                where=name,
                hint=f"{login}, aws configure, AWS_ACCESS_KEY_ID, or systems.{name}.anonymous = true",
            )

        return missing, region, endpoint

    lasting = not hasattr(found, "refresh_needed")

    def current() -> Credentials | None:
        try:
            now = found.get_frozen_credentials()
        except (problems.BotoCoreError, problems.ClientError) as error:
            raise UnauthenticatedError(
                f"the credentials cannot be refreshed: {scrub(str(error))}", where=name, hint=login
            ) from error
        return Credentials(now.access_key, now.secret_key, now.token, lasting)

    return current, region, endpoint


def plain_keys(settings: Settings) -> Found | None:
    """What boto3 would find, if that is nothing but keys; `None` where it should look itself."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    if not variables.keys() <= _PLAIN or not all(variables.values()):
        return None
    file = settings.get("credentials_file")
    chosen = settings.get("profile") or ("default" if file else None)
    named = chosen or variables.get("AWS_PROFILE")
    config = _profile(variables.get("AWS_CONFIG_FILE", "~/.aws/config"), named, _CONFIG, "profile ")
    keys = _profile(file or variables.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), named, _KEYS)
    if config is None or keys is None or (named and not keys):
        return None
    region = variables.get("AWS_DEFAULT_REGION") or config.get("region") or variables.get("AWS_REGION")
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    if flag(settings.get("anonymous")):
        return (lambda: None), region, endpoint
    if chosen is None and ("AWS_ACCESS_KEY_ID" in variables or "AWS_SECRET_ACCESS_KEY" in variables):
        keys = {name: variables[name.upper()] for name in _KEYS if name.upper() in variables}
    if not all(keys.get(name) for name in ("aws_access_key_id", "aws_secret_access_key")):
        return None
    found = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token"))
    return (lambda: found), region, endpoint


def _profile(path: object, named: str | None, known: frozenset[str], prefix: str = "") -> Mapping[str, str] | None:
    """What a file says of a profile, by default that of the name `default`; `None` if it is more than is known here.

    A file that is not there says nothing.
    """
    parser = configparser.RawConfigParser()
    try:
        parser.read(os.path.expanduser(os.path.expandvars(str(path))))
    except (configparser.Error, UnicodeDecodeError, OSError):
        return None
    name = named or "default"
    names = {f"{prefix}{name}", name} if name == "default" else {f"{prefix}{name}"}
    sections = [one for one in names if parser.has_section(one)]
    odd = any(one.startswith("profile") and not _SECTION.fullmatch(one) for one in parser.sections())
    if len(sections) > 1 or odd or parser.defaults():
        return None
    found = dict(parser.items(sections[0])) if sections else {}
    return found if found.keys() <= known and "\n" not in "".join(found.values()) else None
