"""Anything at all, sent to the registry server."""

import json
import socket
import time
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rh.registry.server.endpoints import ENDPOINTS
from tests.registry.server.client import request
from tests.sizes import sized

FUZZ_S = sized(20, full=600)
"""How long the fuzzer goes on (promise 36)."""

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
STEPS = st.fixed_dictionaries(
    {
        "do": st.sampled_from(["put", "delete", "rename", "x"]),
        "key": st.text(max_size=30)
        | st.sampled_from(["resources/bob/x", "series/bob/x", "server/users/bob", "runs/x"]),
    },
    optional={
        "document": st.dictionaries(st.text(max_size=9), ANY_JSON, max_size=3),
        "when": st.sampled_from(["any", "absent", {"match": "1"}]) | ANY_JSON,
        "to": st.text(max_size=20),
        "replace": st.booleans(),
    },
)
FIELDS = sorted({name for endpoint in ENDPOINTS for name in (endpoint.body or {})})
BODIES = (
    st.binary(max_size=200)
    | ANY_JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=4).map(lambda value: json.dumps(value).encode())
    | st.lists(STEPS, max_size=3).map(lambda steps: json.dumps({"steps": steps}).encode())
)
TARGETS = st.sampled_from([endpoint.path for endpoint in ENDPOINTS] + ["/", "/v1", "/health", "/metrics"])


@pytest.mark.slow
@pytest.mark.timeout(FUZZ_S + 120)
def test_anything_at_all_is_answered(server):
    """Promise 36: no 5xx, whatever comes."""
    until = time.monotonic() + FUZZ_S
    tokens = [server.token("ada"), server.token("bob")]
    seen = set()

    @settings(max_examples=1000, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
        TARGETS,
        st.text(max_size=20),
        st.dictionaries(
            st.sampled_from(["key", "prefix", "after", "limit", "user", "path"]), st.text(max_size=20), max_size=3
        ),
        BODIES,
        st.sampled_from(tokens),
    )
    def anything(method, target, part, query, body, token):
        if time.monotonic() > until:
            return
        target = target.replace("{user}", quote(part or "x", safe="")).replace("{id}", quote(part or "x", safe=""))
        if (method, target) in (("DELETE", "/v1/users/ada"), ("PUT", "/v1/users/ada"), ("PUT", "/v1/users/bob")):
            return
        asked = f"{target}?{urlencode(query)}"
        status, _, told = request(server, method, asked, token=token, body=body)
        seen.add(status)
        assert status < 500, (method, asked, body, told)

    while time.monotonic() < until:
        anything()
    assert {200, 400, 404} <= seen
    assert request(server, "GET", "/ready")[0] == 200


@pytest.mark.slow
def test_bytes_that_are_no_http_are_answered_or_cut(server):
    import random

    source = random.Random(1)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            raw.sendall(
                source.choice([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/commit HTTP/1.1\r\n"]) + source.randbytes(60)
            )
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(100)
            assert answer[:10] in (b"", b"HTTP/1.1 4"[:10])
    assert request(server, "GET", "/health")[0] == 200
