"""`Cluster`: this machine and real SSH hosts, by name, and commands that are never a shell's."""

import pickle
import socket

import pytest

import rh
import rh.registry
from rh import errors
from rh.resources.cluster import Cluster
from rh.systems import settings_of

KEYS = ("host", "user", "port", "identity_file", "known_hosts_file", "config_file", "root")


@pytest.fixture
def settings(world):
    known = rh.config.system("ssh-a")
    return {key: known[key] for key in KEYS}


def test_here():
    assert rh.here == rh.cluster("^here")
    assert rh.here.system == "file"
    assert rh.cluster("^rh-cpu").up_if_not().is_up()
    assert rh.load("^rh-cpu").kind == "cluster"
    assert rh.exists("^here")
    assert not rh.exists("^gpu")
    with pytest.raises(errors.NotFoundError, match=r"\^rh-cpu"):
        rh.cluster("^rh-cpus")
    with pytest.raises(errors.NotFoundError):
        rh.folder("^nothing")
    assert repr(rh.here) == "<Cluster ^here: this machine>"
    assert pickle.loads(pickle.dumps(rh.here)) == rh.here


def test_commands_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = rh.here.run([["echo", "$HOME; ls", "a b"], "echo 'c  d' e", "sh -c 'exit 3'", ["pwd"]])
    assert done == [(0, "$HOME; ls a b\n", ""), (0, "c  d e\n", ""), (3, "", ""), (0, f"{tmp_path}\n", "")]
    status, out, err = rh.here.run([["sh", "-c", "echo out; echo err >&2"]])[0]
    assert (status, out, err) == (0, "out\n", "err\n")
    assert rh.here.run([["cat"]], stdin=b"in")[0].stdout == "in"
    with pytest.raises(errors.NotFoundError):
        rh.here.run([["no-such-program"]])
    with pytest.raises(errors.DeadlineError):
        rh.here.run([["sleep", "30"]], timeout_s=0.2)


@pytest.mark.parametrize(
    "command",
    ["echo a && touch owned", "ls | cat", "echo $HOME", "echo `id`", "ls; ls", "cat < x", "a &", 'echo "$HOME"'],
)
def test_what_needs_a_shell_is_not_passed_on_as_words(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InvalidError, match="needs a shell") as caught:
        rh.here.run([["true"], command])
    assert '"sh", "-c"' in caught.value.hint


@pytest.mark.parametrize("commands", ["ls", [""], [[]], [[1]], ["echo 'open"], [5], [None], 5, None])
def test_what_is_no_command(commands):
    with pytest.raises(errors.InvalidError):
        rh.here.run(commands)
    assert rh.here.run([]) == []
    assert rh.here.run(["echo '$x'"])[0].stdout == "$x\n"


def test_a_host(settings, here):
    cluster = rh.cluster(name="gpu", **settings)
    assert (cluster.name, cluster.system) == ("~/gpu", "gpu")
    assert cluster.up_if_not() is cluster
    assert cluster.run([["echo", "a  b; c"], "echo 'x y'"]) == [(0, "a  b; c\n", ""), (0, "x y\n", "")]
    here.put({"a": b"1"})
    copy = here.to(cluster)
    assert copy.url == f"gpu:{settings['root']}/" + copy.digest().replace(":", "-")
    assert copy.get("a") == b"1"
    assert rh.folder(path=copy.url) == copy
    assert rh.folder(path=copy.path, system=cluster) == copy == rh.folder(path=copy.path, system="gpu")
    assert here.from_cluster(cluster).location.system == "gpu"
    assert copy.from_cluster(cluster) is copy
    with pytest.raises(errors.InvalidError, match="neither"):
        rh.folder(path="memory://x/y").from_cluster(cluster)


def test_a_host_without_a_root_takes_data_below_its_home(ssh_a, here):
    cluster = rh.cluster(name="bare", **{key: value for key, value in ssh_a.settings().items() if key in KEYS})
    here.put({"a": b"1"})
    copy = rh.folder("from-laptop", path=here.path).to(cluster)
    assert copy.path == "~/.rh/data/from-laptop"
    assert (ssh_a.home / ".rh" / "data" / "from-laptop" / "a").read_bytes() == b"1"
    copy.rm(recursive=True)


def test_saved_and_loaded_in_another_process(settings, python):
    cluster = rh.cluster("team/gpu", **settings, metadata={"gpus": 8}).save()
    assert rh.cluster("~/team/gpu") == cluster
    assert rh.Cluster.from_config(cluster.config()) == cluster
    out = python(
        "import rh\n"
        "c = rh.cluster('team/gpu')\n"
        "print(c.is_up(), c.run([['echo', 'hi']])[0].stdout.strip(), c.system, c.metadata)\n"
        "print(rh.folder(path='x', system='~/team/gpu').url.startswith('team--gpu:'))\n"
    )
    assert out == "True hi team--gpu {'gpus': 8}\nTrue\n"


def test_the_system_of_one_cluster_is_never_that_of_another(python):
    """Names that differ in a dot, a slash or their owner make one name of a system."""
    first = rh.cluster("gpu.one", host="first.example").save()
    data = rh.folder(path="/data", system=first)
    second = rh.cluster("gpu-two", host="second.example").save()
    with pytest.raises(errors.ExistsError):
        second.rename("gpu-one")
    python("import rh; rh.load('gpu-two').rename('gpu-one')")
    with pytest.raises(errors.ExistsError, match=r"'gpu-one' is ~/gpu\.one \(first\.example\) here"):
        rh.load("gpu-one")
    rh.find()  # tells of every cluster
    assert settings_of(data.system)["host"] == "first.example"
    assert rh.cluster("gpu.one", host="moved.example").system == "gpu-one"
    assert rh.cluster("/org/gpu", host="same.example").system == rh.cluster("org/gpu", host="same.example").system
    code = "import rh; from rh.systems import settings_of; print(settings_of(rh.load('gpu-one').system)['host'])"
    assert python(code) == "second.example\n"
    assert python(code.replace("load('gpu-one')", "folder(path='gpu-one:/x')")) == "second.example\n"


def test_a_folder_of_the_team_is_not_looked_for_on_a_host_of_ones_own(python):
    theirs = {"kind": "ssh", "cluster": "~/gpu", "host": "theirs.example"}
    record = {"kind": "folder", "location": {"system": "gpu", "path": "/data"}, "host": theirs}
    rh.registry.local().put("resources/org/x", record)
    mine = rh.cluster("gpu", host="mine.example").save()
    with pytest.raises(errors.ExistsError, match=r"~/gpu \(mine\.example\) here, and not the host \(theirs\.example\)"):
        rh.folder("/org/x")
    assert settings_of(mine.system)["host"] == "mine.example"
    assert "cluster" not in rh.folder("/org/y", path="/data", system=mine).config()["host"]
    code = "import rh; from rh.systems import settings_of; print(settings_of(rh.folder('/org/x').system)['host'])"
    assert python(code) == "theirs.example\n"


def test_a_registered_host_is_looked_for_where_it_was_registered_last(python):
    """As a cluster that moved: rented hosts, tunnels and servers of tests have another address each time."""
    rh.register_system("box", kind="ssh", host="127.0.0.1", port=2222)
    data = rh.folder("data", path="/data", system="box")
    rh.registry.local().put("resources/~/data", data.config())
    rh.register_system("box", kind="ssh", host="127.0.0.1", port=3333)
    assert data.handle().settings["port"] == rh.load("data").handle().settings["port"] == 3333
    code = "import rh; from rh.systems import settings_of; print(settings_of(rh.load('data').system)['port'])"
    assert python(code) == "2222\n"
    theirs = {"kind": "folder", "location": {"system": "box", "path": "/data"}, "host": dict(data.host)}
    rh.registry.local().put("resources/org/x", theirs)
    with pytest.raises(errors.ExistsError, match=r"box \(127\.0\.0\.1:3333\) here.* the host \(127\.0\.0\.1:2222\)"):
        rh.folder("/org/x")


@pytest.mark.parametrize(
    ("one", "other"), [("Gpu.Example.org", "gpu.example.org."), ("::1", "[::1]"), ("same.example", "same.example")]
)
def test_one_machine_may_be_spelled_in_several_ways(one, other, monkeypatch):
    theirs = {"kind": "ssh", "host": other, "port": 2222}
    record = {"kind": "folder", "location": {"system": "gpu", "path": "/data"}, "host": theirs}
    rh.registry.local().put("resources/org/x", record)
    rh.cluster("gpu", host=one, port=2222)
    monkeypatch.setenv("RH_GPU_PORT", "2222")
    assert rh.folder("/org/x").system == "gpu"


def test_the_url_of_what_is_on_a_saved_cluster_is_taken_by_another_process(python):
    url = rh.folder(path="/x", system=rh.cluster("team/gpu", host="h.example").save()).url
    assert python("import rh, sys; print(rh.folder(path=sys.argv[1]).url)", url) == f"{url}\n"


def test_what_others_may_be_told_of_a_host(settings, here):
    """A shared record cannot decide which files of this machine say whom to trust."""
    cluster = rh.cluster("/org/gpu", **settings).save()
    folder = rh.folder("/org/x", path="/tmp", system=cluster)
    for config in (cluster.config()["settings"], folder.config()["host"]):
        assert set(config) <= {"kind", "cluster", "host", "user", "port", "identity_file", "root"}
    planted = {"host": "h", "known_hosts_file": "/tmp/k", "config_file": "/tmp/c", "proxy_command": "touch /tmp/x"}
    registry = rh.registry.local()
    registry.put("resources/org/c", {"kind": "cluster", "provider": "ssh", "settings": planted})
    assert rh.cluster("/org/c").settings == {"host": "h"}
    at = {"system": "box", "path": "/x"}
    registry.put("resources/org/f", {"kind": "folder", "location": at, "host": {"kind": "ssh", **planted}})
    assert rh.folder("/org/f").host == {"kind": "ssh", "host": "h"}
    assert not {"known_hosts_file", "config_file", "proxy_command"} & set(rh.config.system("box"))


def test_a_pickled_cluster_knows_its_host(settings, python):
    cluster = rh.cluster("gpu", **settings)
    data = pickle.dumps((cluster, rh.folder(path=settings["root"], system=cluster)))
    code = (
        "import pickle, sys\n"
        "cluster, folder = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(cluster.is_up(), folder.exists_in_system())\n"
    )
    assert python(code, data.hex()) == "True True\n"


def test_a_configured_host_is_a_cluster(world):
    cluster = rh.cluster("ssh-a")
    assert (cluster.system, cluster.name, cluster.is_up()) == ("ssh-a", None, True)
    assert cluster.save("a").system == "ssh-a"
    assert rh.cluster("a") == rh.load("a")
    assert rh.cluster("here") == rh.here
    with pytest.raises(errors.InvalidError, match="'s3' is a system, not a cluster"):
        rh.cluster("s3")
    with pytest.raises(errors.NotFoundError, match=r"did you mean ssh-a or ssh-b\?|did you mean ssh-b or ssh-a\?"):
        rh.cluster("ssh-c")


def test_a_misspelt_host_is_told_the_nearest(settings):
    rh.cluster("gpu-box", **settings).save()
    rh.config.register("gpu-box", None)
    for call in (rh.cluster, lambda name: rh.folder(path="x", system=name), lambda name: rh.folder(path=f"{name}:/x")):
        with pytest.raises(errors.NotFoundError, match=r"did you mean gpu-box\?"):
            call("gpu-bix")


def test_a_command_that_is_not_there(world):
    with pytest.raises(errors.NotFoundError, match=r"no command 'no-such-command' to run .exit status 127.*ssh-a"):
        rh.cluster("ssh-a").run(["no-such-command"])


def test_without_a_name(settings, world):
    plain = rh.cluster(host="h.example.org", user="ada", port=2222)
    assert plain.system == "ssh://ada@h.example.org:2222"
    assert rh.folder(path="/x", system=plain).url == "ssh://ada@h.example.org:2222/x"
    assert rh.cluster(host="::1", port=22).system == "ssh://[::1]:22"
    cluster = rh.cluster(**settings)
    assert cluster.run([["echo", "hi"]])[0].stdout == "hi\n"
    assert cluster.system == rh.cluster(**settings).system


def test_a_host_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        cluster = rh.cluster("gone", host="127.0.0.1", port=port, timeout_s=5)
        assert not cluster.is_up()
        with pytest.raises(errors.UnavailableError, match="does not answer"):
            cluster.up_if_not()


@pytest.mark.parametrize(
    "settings",
    [
        {"host": "-oProxyCommand=x"},
        {"host": "h; rm -rf /"},
        {"host": "h", "user": "-l"},
        {"host": "h", "user": "a b"},
        {"host": "h", "port": 0},
        {"host": "h", "port": "22"},
        {"host": "h", "password": "hunter2"},
        {"host": "h", "proxy_command": "x"},
        {"host": "h", "accept_new": True},
        {"user": "ada"},
        {"host": ""},
    ],
)
def test_what_a_cluster_cannot_be(settings):
    with pytest.raises(errors.InvalidError) as caught:
        rh.cluster("gpu", **settings)
    assert "hunter2" not in str(caught.value)


def test_kinds_that_are_not_here_yet():
    with pytest.raises(errors.UnsupportedError, match="kubernetes"):
        rh.cluster("k", kind="kubernetes", host="h")
    assert rh.cluster("me", kind="local").run([["echo", "1"]])[0].stdout == "1\n"


def test_a_name_that_a_configured_system_has(tmp_path, monkeypatch):
    monkeypatch.setenv("RH_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[systems.gpu]\nkind = "ssh"\nhost = "a.example.org"\n')
    with pytest.raises(errors.InvalidError, match="configured already"):
        rh.cluster("gpu", host="b.example.org")
    assert rh.config.system("gpu")["host"] == "a.example.org"
    assert rh.cluster("gpu").configured == "gpu"


def test_it_is_a_value():
    cluster = rh.cluster("gpu", host="h", metadata={"x": 1})
    assert cluster == rh.cluster("gpu", host="h", metadata={"x": 1}) != rh.cluster("gpu", host="h2")
    assert isinstance(hash(cluster), int)
    assert Cluster.from_config(cluster.config()) == cluster
    assert "<th>host</th>" in cluster._repr_html_()
