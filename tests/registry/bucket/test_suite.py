"""Registries on bucket prefixes and in shared directories keep what every registry promises."""

from uuid import uuid4

import pytest

from rh.registry import open_registry
from rh.testing._suite_histories import HistorySuite
from rh.testing.registry import _ADD, RegistrySuite, finished, python
from rh.testing.servers import GCSServer
from tests.registry.bucket.places import configure
from tests.sizes import FULL, sized

pytestmark = pytest.mark.servers


class BucketSuite(RegistrySuite):
    """Servers for tests are slow: fewer rounds, and the totals must come out all the same."""

    processes = sized(4, full=8)
    increments = sized(10, full=100)
    patience_s = 90.0 if not FULL else 3600.0


class TestOnS3(BucketSuite):
    @pytest.fixture
    def url(self, moto_server):
        configure("s3", moto_server.settings(timeout_s=90))
        return f"s3://{moto_server.buckets[0]}/{uuid4().hex}/registry"


class TestOnGCS(BucketSuite):
    @pytest.fixture
    def url(self, gcs_server):
        configure("gs", gcs_server.settings(timeout_s=90))
        return f"gs://{gcs_server.buckets[0]}/{uuid4().hex}/registry"


class TestOnAzure(BucketSuite):
    @pytest.fixture
    def url(self, azure_server):
        configure("azure", azure_server.settings(timeout_s=90))
        return f"azure://{azure_server.buckets[0]}/{uuid4().hex}/registry"


class TestInADirectory(BucketSuite):
    processes = 8

    @pytest.fixture
    def url(self, tmp_path):
        return f"file://{tmp_path}/shared/registry"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_eight_hundred_increments_are_all_there(registry):
    for process in [python(_ADD, registry.url, "100") for _ in range(8)]:
        finished(process, 500)
    assert registry.get("counter").document == {"n": 800}
    assert [change.revision for change in registry.history("counter")] == list(range(1, 801))


class Lasting(GCSServer):
    """A server that keeps objects in files, which outlive it."""

    def _command(self):
        command = [*super()._command(), "-filesystem-root", str(self.directory / "objects")]
        command[command.index("memory")] = "filesystem"
        return command


class TestHistoriesOverARestart(HistorySuite):
    patience_s = BucketSuite.patience_s

    @pytest.fixture
    def server(self):
        with Lasting() as server:
            yield server

    @pytest.fixture
    def url(self, server):
        configure("gs", server.settings(timeout_s=90))
        return f"gs://{server.buckets[0]}/registry"

    @pytest.fixture
    def registry(self, url):
        return open_registry(url)

    @pytest.fixture
    def restart(self, server):
        return server.restart
