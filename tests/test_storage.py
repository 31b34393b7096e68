"""Arrays in memory or in a file: `data.storage`."""

import errno
import gc
import os
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import pytest
import torch

from vigil.data.storage import SHARE_OF_FREE, Storage, free_memory_bytes
from vigil.extract.errors import UserError

GIB = 2**30


def in_file(array: np.ndarray[Any, Any]) -> bool:
    return isinstance(array, np.memmap)


@pytest.mark.parametrize("memory_gib", [None, 0])
def test_arrays_hold_what_is_stored_in_them(tmp_path: Path, memory_gib: float | None) -> None:
    storage = Storage(tmp_path / "new" / "folder", memory_gib)
    drawn = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(np.float16)
    array = storage.empty(drawn.shape, np.float16)
    assert (array.shape, array.dtype, in_file(array)) == ((7, 3, 5), np.float16, memory_gib == 0)
    array[:] = drawn
    taken = storage.take(array, [6, 0, 0, 2])
    assert in_file(taken) == in_file(array)
    array[:] = 0  # what was taken is a copy
    np.testing.assert_array_equal(taken, drawn[[6, 0, 0, 2]])


def test_the_file_has_no_name_and_ends_with_the_array(tmp_path: Path) -> None:
    def files_in_use() -> int:
        with Path("/proc/self/maps").open() as maps:
            return sum(str(tmp_path) in line for line in maps)

    array = Storage(tmp_path, 0).empty((1000, 1000), np.float32)
    assert list(tmp_path.iterdir()) == []
    assert files_in_use() == 1
    del array
    gc.collect()
    assert files_in_use() == 0


def test_torch_shares_a_file_without_a_copy(tmp_path: Path) -> None:
    array = Storage(tmp_path, 0).empty((4, 2, 3), np.float16)
    tensor = torch.from_numpy(array).flatten(0, 1)
    array[:] = 5
    assert (tensor == 5).all()
    tensor[0] = 7
    assert (array[0, 0] == 7).all()


def test_all_arrays_together_stay_within_the_memory_limit(tmp_path: Path) -> None:
    storage = Storage(tmp_path, 100 / GIB)
    first = storage.empty((60,), np.uint8)
    assert not in_file(first)
    assert in_file(storage.empty((41,), np.uint8))
    second = storage.empty((40,), np.uint8)
    assert not in_file(second)
    view = torch.from_numpy(first[10:])
    del first
    assert in_file(storage.empty((1,), np.uint8))  # the tensor still holds the first
    del view
    assert not in_file(storage.empty((60,), np.uint8))


def test_by_default_an_array_uses_a_share_of_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vigil.data.storage.free_memory_bytes", lambda: 3000)
    limit = int(3000 * SHARE_OF_FREE)
    assert not in_file(Storage(tmp_path).empty((limit,), np.uint8))
    assert in_file(Storage(tmp_path).empty((limit + 1,), np.uint8))


def test_streaming_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Storage(tmp_path, 1).empty((10_000_000,), np.float16)
    assert not caplog.messages
    Storage(tmp_path, 0).empty((150_000_000,), np.float16)
    expected = f"0.30 GB of features are streamed from disk, from a file in {tmp_path}"
    assert caplog.messages == [expected]


def test_a_disk_without_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the system, for example because of a quota, reports it only on allocation."""
    free = disk_usage(tmp_path).free
    with pytest.raises(UserError, match=rf"\d GB of features fit .* nor in {tmp_path}, which has"):
        Storage(tmp_path, 0).empty((free + 2**40,), np.uint8)

    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match="make room there, or allow more memory with --memory-gib"):
        Storage(tmp_path, 0).empty((10,), np.uint8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_gib", [-1, float("nan"), float("inf")])
def test_an_invalid_memory_limit_is_refused(memory_gib: float) -> None:
    with pytest.raises(UserError, match=r"--memory-gib .* is not in 0..2\^20"):
        Storage(None, memory_gib)


class TestFreeMemory:
    """Free memory according to simulated files of the kernel."""

    def make(self, root: Path, own: str, **groups: str) -> int:
        files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1000 kB\n"}
        files |= {"proc/self/cgroup": own, **groups}
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return free_memory_bytes(root)

    def v2(self, folder: str, limit: object, use: int) -> dict[str, str]:
        stat = "anon 7\nfile 4000\ninactive_file 3000\n"
        names = {"memory.max": str(limit), "memory.current": str(use), "memory.stat": stat}
        return {f"sys/fs/cgroup{folder}/{name}": text + "\n" for name, text in names.items()}

    def test_without_limits_it_is_that_of_the_machine(self, tmp_path: Path) -> None:
        assert self.make(tmp_path, "0::/\n") == 1000 * 1024
        assert self.make(tmp_path, "0::/a\n", **self.v2("/a", "max", 5000)) == 1000 * 1024

    def test_a_limit_is_reduced_by_use_except_for_files(self, tmp_path: Path) -> None:
        assert self.make(tmp_path, "0::/a/b\n", **self.v2("/a/b", 90_000, 50_000)) == 43_000

    def test_the_limit_of_a_group_above_counts_too(self, tmp_path: Path) -> None:
        groups = self.v2("/a", 20_000, 12_000) | self.v2("/a/b", 90_000, 50_000)
        assert self.make(tmp_path, "0::/a/b\n", **groups) == 11_000

    def test_a_container_sees_its_own_group_as_the_topmost(self, tmp_path: Path) -> None:
        groups = self.v2("", 90_000, 50_000)
        assert self.make(tmp_path, "0::/docker/1234\n", **groups) == 43_000

    def test_version_1(self, tmp_path: Path) -> None:
        files = {
            "memory.limit_in_bytes": "90000\n",
            "memory.usage_in_bytes": "50000\n",
            "memory.stat": "inactive_file 1\ntotal_inactive_file 3000\n",
        }
        groups = {f"sys/fs/cgroup/memory/a/{name}": text for name, text in files.items()}
        own = "9:name=systemd:/\n4:memory:/a\n0::/\n"
        assert self.make(tmp_path, own, **groups) == 43_000

    def test_without_information_from_the_kernel_it_is_the_unused_memory(
        self, tmp_path: Path
    ) -> None:
        unused = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert free_memory_bytes(tmp_path / "nowhere") == pytest.approx(unused, rel=0.5)
        assert self.make(tmp_path, "odd\n") == 1000 * 1024
        (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\n")
        assert free_memory_bytes(tmp_path) == pytest.approx(unused, rel=0.5)

    def test_use_beyond_the_limit_gives_zero(self, tmp_path: Path) -> None:
        assert self.make(tmp_path, "0::/\n", **self.v2("", 10_000, 50_000)) == 0

    def test_on_this_machine(self) -> None:
        assert 2**20 < free_memory_bytes() < 2**50
