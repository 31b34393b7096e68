"""`vigil` with a cheap network that a black frame kills, and with short leases on a cluster."""

import sys
from dataclasses import replace

from fake_backbone import BACKBONE, Deadly

from vigil.extract.networks.backbones import BACKBONES
from vigil.pipeline.cli import main
from vigil.pipeline.cluster import cluster_engine, driver


def build(_endpoint):
    return Deadly()


if __name__ == "__main__":
    from cluster_program import build  # by a name that the nodes know, too

    BACKBONES["fake"] = replace(BACKBONE, build=build)
    cluster_engine.LEASE_SECONDS, driver.MARGIN_SECONDS = 10.0, 2.0
    sys.exit(main(sys.argv[1:]))
