"""Settings: what is misspelt is told where it stands, with the nearest word."""

import pytest

import rh
from rh import config, errors
from rh.systems import open_system, settings_of
from rh.types import Location


@pytest.fixture
def file():
    """Write `config.toml`; its path."""

    def write(text):
        config.home().mkdir(parents=True, exist_ok=True)
        path = config.home() / "config.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("wokers = 3", "wokers", "workers"),
        ('[system.s3]\nroot = "s3://b"', "system", "systems"),
        ('[systems.s3]\nendpont_url = "x"', "systems.s3.endpont_url", "endpoint_url"),
        ('[systems.gs]\nrot = "gs://b"', "systems.gs.rot", "root"),
        ('[systems.azure]\nacount = "b"', "systems.azure.acount", "account"),
        ('[systems.lab]\nkind = "ssh2"\nhost = "h"', "systems.lab.kind", "ssh"),
        ('[systems.lab]\nkind = "ssh"\nhots = "h"', "systems.lab.hots", "host"),
        ('[systems.gcs]\nroot = "gs://b"', "systems.gcs", "gs"),
    ],
)
def test_a_misspelt_setting_in_a_file(file, text, key, near):
    path = file(text)
    with pytest.raises(errors.InvalidError, match=near) as caught:
        settings_of(key.split(".")[1] if "." in key else "s3")
    assert caught.value.where == f"{path}: {key}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('kind = "s3"\nendpoint_url = 9000', "endpoint_url"),
        ('kind = "s3"\nregion = ["eu"]', "region"),
        ('kind = "s3"\nprofile = 3', "profile"),
        ('kind = "s3"\nstore = true', "store"),
        ('kind = "ssh"\nhost = 5', "host"),
        ('kind = "azure"\naccount = 5', "account"),
        ('kind = "http"\nurl = 5', "url"),
    ],
)
def test_a_setting_that_is_no_text(file, text, key):
    path = file(f"[systems.lab]\n{text}")
    with pytest.raises(errors.InvalidError, match=f"{key} is text, not ") as caught:
        settings_of("lab")
    assert caught.value.where == f"{path}: systems.lab.{key}"


@pytest.mark.parametrize(("text", "key"), [('user = ["ada"]', "user"), ("registry = 5", "registry")])
def test_a_general_setting_that_is_no_text(file, text, key):
    path = file(text)
    with pytest.raises(errors.InvalidError, match=f"{key} is text, not ") as caught:
        config.get("workers")
    assert caught.value.where == f"{path}: {key}"


def test_a_profile_too(file, monkeypatch):
    file("")
    (config.home() / "profiles").mkdir()
    (config.home() / "profiles" / "lab.toml").write_text("timeout = 3")
    monkeypatch.setenv("RH_PROFILE", "lab")
    with pytest.raises(errors.InvalidError, match=r"did you mean timeout_s\?.*lab.toml: timeout"):
        config.get("workers")


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("RH_WOKERS", "RH_WORKERS"),
        ("RH_S3_ROOOT", "root"),
        ("RH_GCS_ROOT", "RH_GS_ROOT"),
        ("RH_SYSTEMS_S3_ROOT", "did you mean RH_S3_ROOT"),
        ("RH_MEMORYS_ROOT", "MEMORY"),
    ],
)
def test_a_misspelt_variable(monkeypatch, variable, near):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(errors.InvalidError, match=near) as caught:
        settings_of("s3")
    assert caught.value.where == variable


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("RH_WORKERS", "0"),
        ("RH_TIMEOUT_S", "-1"),
        ("RH_RETRIES", "x"),
        ("RH_TIMEOUT_S", "inf"),
        ("RH_S3_TIMEOUT_S", "long"),
        ("RH_S3_RETRIES", "-1"),
    ],
)
def test_what_is_no_number(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(errors.InvalidError, match="not a number") as caught:
        open_system(Location("s3", "b"))
    assert caught.value.where == variable


def test_what_is_no_number_in_a_file(file):
    path = file('workers = "many"')
    with pytest.raises(errors.InvalidError, match="workers is not a number") as caught:
        config.get("workers")
    assert caught.value.where == f"{path}: workers"


def test_the_variables_of_others_are_theirs(monkeypatch):
    monkeypatch.setenv("RH_CUSTOMER_PORTAL", "1")
    monkeypatch.setenv("RH_ELSEWHERE_ROOT", "1")
    assert config.get("workers") == 16


@pytest.mark.parametrize(
    ("settings", "near"),
    [({"kind": "ssh2"}, "did you mean ssh"), ({"kind": "s3", "endpoint": "x"}, "did you mean endpoint_url")],
)
def test_what_is_registered(settings, near):
    with pytest.raises(errors.InvalidError, match=near):
        rh.register_system("lab", **settings)
    assert "lab" not in config.system_names()


def test_a_setting_that_holds_for_a_block():
    with pytest.raises(errors.InvalidError, match="did you mean retries"), config.override({"retrys": 1}):
        pass


def test_blocks_with_equal_settings_end_by_themselves():
    with config.override({"workers": 1}), config.override({"workers": 2}):
        with config.override({"workers": 1}):
            assert config.get("workers") == 1
        assert config.get("workers") == 2


def test_a_system_whose_name_has_a_dot_is_refused_and_not_another_one(file):
    with pytest.raises(errors.NotFoundError, match=r"gpu\.example\.org") as caught:
        config.system("gpu.example.org")
    assert "[systems.gpu-example-org]" in caught.value.hint
    file('[systems."gpu.example.org"]\nkind = "ssh"\nhost = "gpu.example.org"\n')
    with pytest.raises(errors.InvalidError, match="no dot") as caught:
        config.system_names()
    assert caught.value.hint == "[systems.gpu-example-org]"


def test_every_setting_a_page_names_is_taken(file):
    """Each kind takes its own and the general ones; fsspec takes whatever its file system does."""
    file(
        '[systems.lab]\nkind = "ssh"\nhost = "h"\nfsync = false\nretry_s = 3.0\n'
        '[systems.s3]\nsse = "AES256"\nca_bundle = "x"\ntimeout_s = 3\nretries = 1\n'
        '[systems.any]\nkind = "fsspec"\nprotocol = "memory"\n[systems.any.options]\nanything = 1\n'
    )
    for name in ("lab", "s3", "any"):
        assert settings_of(name)["name"] == name
    open_system(Location("lab", "~")).close()


def test_a_playground_that_does_not_run_says_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RH_PROFILE", "playground")
    with pytest.raises(errors.NotFoundError, match="no profile 'playground'") as caught:
        config.get("workers")
    assert "rh playground" in (caught.value.hint or "")


def test_what_is_shown_has_no_credentials(monkeypatch):
    """Promise 34: neither in URLs, nor under the names that file systems of others have for them."""
    config.register("office", {"kind": "fsspec", "options": {"password": "CANARY-1", "user": "ada"}})
    account = "AccountName=ada;AccountKey=CANARY-3==;EndpointSuffix=x"
    headers = {"Authorization": "Bearer CANARY-4", "Cookie": "CANARY-5", "Accept": "*/*"}
    others = {"passwd": "CANARY-6", "pwd": "CANARY-7", "credentials": "CANARY-8", "auth": ["ada", "CANARY-9"]}
    config.register(
        "blobs", {"kind": "fsspec", "options": {"connection_string": account, "headers": headers, **others}}
    )
    signed = "https://h/x?X-Amz-Credential=CANARY-10&X-Amz-Security-Token=CANARY-11&X-Amz-Signature=CANARY-12"
    config.register("site", {"kind": "http", "root": signed})
    with config.override({"registry": "postgresql://h/db?user=ada&password=CANARY-2"}):
        shown = repr(config.show())
    assert "CANARY" not in shown
    assert "user=ada" in shown
    assert "AccountName=ada" in shown
    assert "*/*" in shown


def test_the_home_of_a_user_without_an_account(monkeypatch):
    """Such as a container may run as: what helps is told, also by `rh doctor`."""
    import pwd

    free = max(one.pw_uid for one in pwd.getpwall() if one.pw_uid < 60_000) + 1
    monkeypatch.delenv("RH_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: free)
    with pytest.raises(errors.InvalidError, match=r"no home directory.*RH_HOME"):
        config.home()


def test_a_home_below_the_users_own_that_no_shell_has_expanded(monkeypatch, tmp_path):
    """As in a file of variables: not a directory called `~`, another one wherever `rh` runs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RH_HOME", "~/mine")
    assert config.home() == tmp_path / "mine"
