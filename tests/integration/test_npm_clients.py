"""Redis clients of Node.js, as their users run them: tests/clients/*.test.mjs against a cluster."""

import os

from harness.case import ClusterTest
from harness.cluster import ROOT, Cluster
from harness.nodejs import NodeTest, Package

CLIENTS = os.path.join(ROOT, "tests/clients")
PACKAGE = Package(CLIENTS, node_minimum=18)


class Lock(ClusterTest):
    def test_the_lock_file_names_no_place_to_download_from(self):
        PACKAGE.check_lock(self)


class NpmClients(NodeTest):
    """One method for each file in tests/clients, added below."""

    package = PACKAGE


def require_tls(cluster):
    cluster.use_tls(clients="required")


def add_tests():
    for name in sorted(os.listdir(CLIENTS)):
        if not name.endswith(".test.mjs"):
            continue
        title = name.removesuffix(".test.mjs").replace("-", "_")
        prepare = None
        if name.startswith("auth"):
            prepare = Cluster.require_authentication
        if name.startswith("tls"):
            prepare = require_tls
        variants = {title: {}}
        if title.endswith("_cluster"):
            variants[f"{title}_redirected"] = {"redirect": "yes"}
        for variant, settings in variants.items():
            setattr(
                NpmClients,
                f"test_{variant}",
                lambda self, name=name, prepare=prepare, settings=settings: self.run_file(
                    name, prepare=prepare, **settings
                ),
            )


add_tests()
