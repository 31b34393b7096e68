"""Independent jobs as tasks of a Ray cluster.

Ray gives the jobs of a lost node to others, and ends all of them when the command ends, even if it
is killed. What they compute they write to files; only a few words come back.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from vigil.extract.errors import UserError, counted

MAX_RETRIES = 3
"""So often a job is given to another node when its own is lost."""
LOOK_SECONDS = 60.0
"""How often it is asked whether there is still a node with room for jobs."""

Key = TypeVar("Key")
Result = TypeVar("Result")


class LostJobError(Exception):
    """A job has no result, because every process or node that had it was lost."""


def has_gpus(ray: Any) -> bool:
    """Whether any node of the cluster has one."""
    return bool(ray.cluster_resources().get("GPU"))


def most_cores(ray: Any, on_gpu: bool) -> int:
    """The cores of the node that has most of them; with a GPU, if one is needed."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = [one for one in resources if one.get("GPU") or not on_gpu]
    return max((int(one.get("CPU", 0)) for one in fitting), default=0)


def require_room(ray: Any, num_cores: int, on_gpu: bool) -> None:
    """Refuse jobs that no node has room for, which would wait forever.

    Raises:
        UserError: names what is needed and what there is.
    """
    if on_gpu and not has_gpus(ray):
        raise UserError("no node of the cluster has a GPU: start one that has, or use --device cpu")
    if num_cores > (most := most_cores(ray, on_gpu)):
        raise UserError(
            f"each job computes with {num_cores} threads, as torch does here, but no node of the "
            f"cluster {'with a GPU ' * on_gpu}has more than {counted(most, 'core')}: set "
            f"OMP_NUM_THREADS={max(most, 1)}, or start one that has"
        )


def finished_jobs(
    ray: Any, jobs: Mapping[Key, Callable[[], Result]], num_cores: int, on_gpu: bool
) -> Iterator[tuple[Key, Result | LostJobError]]:
    """Yield the key and the result of each job, in the order in which they finish.

    Args:
        ray: of `joined`.
        jobs: key -> a function that can be pickled.
        num_cores: that a job needs.
        on_gpu: whether it needs a GPU, too.

    Raises:
        UserError: no node has room for a job any more.
    """
    task = ray.remote(num_cpus=num_cores, num_gpus=int(on_gpu), max_retries=MAX_RETRIES)(_call)
    waiting = {task.remote(job): key for key, job in jobs.items()}
    try:
        while waiting:
            finished, _ = ray.wait(list(waiting), timeout=LOOK_SECONDS)
            if not finished:
                require_room(ray, num_cores, on_gpu)
                continue
            [done] = finished
            key = waiting.pop(done)
            try:
                yield key, ray.get(done)
            except ray.exceptions.RayTaskError:
                raise  # the job's own error
            except ray.exceptions.RayError as error:
                yield key, LostJobError(" ".join(str(error).split()))
    finally:
        for one in waiting:
            with suppress(ray.exceptions.RayError):
                ray.cancel(one, force=True)


def _call(job: Callable[[], Result]) -> Result:
    return job()
