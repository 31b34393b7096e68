"""An engine whose work is done on a cluster: planned, counted and written up like any other."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from vigil.extract.engine.activity import Activity
from vigil.extract.engine.dispatch import Engine
from vigil.extract.engine.live import LiveStreams
from vigil.extract.engine.writer import Extracted
from vigil.extract.errors import FailedVideo
from vigil.extract.source import SourceVideo
from vigil.pipeline.cluster.admission import Admission
from vigil.pipeline.cluster.driver import LEASE_SECONDS, Driver
from vigil.pipeline.cluster.joining import joined
from vigil.pipeline.cluster.node import Job
from vigil.pipeline.cluster.ray_nodes import RayNodes
from vigil.pipeline.options import ComputeOptions


@dataclass(frozen=True, kw_only=True)
class ClusterEngine(Engine):
    """An engine like its base, but that ``extract`` runs on the seats of a cluster."""

    driver: Driver
    store: Path

    def extract(
        self,
        videos: Sequence[SourceVideo],
        store: Path,
        watch: Callable[[Activity], None] = lambda activity: None,
        more: Callable[[], Sequence[SourceVideo] | None] = lambda: None,
        live: LiveStreams | None = None,
    ) -> Generator[Extracted | FailedVideo]:
        """As `Engine.extract`, into the store that the cluster was opened for; without cameras.

        Raises:
            UserError, OSError, RuntimeError: the last engine ended with it.
        """
        assert store.absolute() == self.store
        assert live is None
        return self.driver.extract(videos, watch, more)


@contextmanager
def on_cluster(
    engine: Engine,
    address: str,
    make_engine: Callable[[str], Engine],
    compute: ComputeOptions,
    store: Path,
    videos: Sequence[SourceVideo],
) -> Iterator[ClusterEngine]:
    """Yield an engine that works on a cluster while the block runs.

    Args:
        engine: what is extracted; its devices are not used.
        address: as for `joined`.
        make_engine: makes, on a node, the same engine for a device there.
        compute: the options of the command.
        store: folder of features, whose lock the caller holds.
        videos: of which nodes are asked whether they see them.

    Raises:
        UserError: the cluster cannot be joined, or a node does not fit.
    """
    store = store.absolute()
    seen = [replace(video, path=video.path.absolute()) for video in videos]
    with (
        joined(address) as ray,
        closing(RayNodes(ray, compute.device, store)) as nodes,
        closing(Admission(store, seen, compute.precision)) as admission,
    ):
        job = Job(make_engine, store, LEASE_SECONDS)

        def num_clips(outcome: Extracted) -> int:
            features = outcome.features
            return engine.spec.grid.num_clips(
                features.num_frames_sampled or features.num_frames_decoded
            )

        with closing(Driver(nodes, admission, job, num_clips)) as driver:
            settings = {one.name: getattr(engine, one.name) for one in fields(Engine)}
            settings["precision"] = driver.admit()
            yield ClusterEngine(**settings, driver=driver, store=store)
