"""The limits of the machine: bound cores and the quotas of control groups, versions 1 and 2."""

import os

import pytest

from minicnn.training import cores

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "31 23 0:27 {} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
V1_MEMORY = "32 23 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"


def machine(monkeypatch, root, groups, mounts, files):
    """A process bound to three cores, in these control groups: {file: content} under `root`."""
    files = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(content))
    monkeypatch.setattr(cores, "ROOT", root)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)


def v1(group, quota, period=100000):
    folder = f"sys/fs/cgroup/cpu{group}"
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    "text, expected",
    [
        *[("max 100000", 3), ("200000 100000", 2), ("900000 100000", 3), ("50000 100000", 1)],
        *[("290000 100000", 2), ("50000 25000", 2), ("no numbers", 3), ("", 3)],
    ],
)
def test_the_quota_of_version_2(text, expected, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": text})
    assert cores.cores() == expected


@pytest.mark.parametrize("quota, expected", [(100000, 1), (200000, 2), (-1, 3), (50000, 1)])
def test_the_quota_of_version_1(quota, expected, tmp_path, monkeypatch):
    groups = "3:memory:/\n2:cpu,cpuacct:/\n"
    mounts = V1_MEMORY + V1.format("/")
    machine(monkeypatch, tmp_path, groups, mounts, v1("", -1) | v1("", quota))
    assert cores.cores() == expected


@pytest.mark.parametrize("limited", ["", "/user", "/user/job", "/user/job/step"])
def test_the_limits_of_all_groups_around_hold(limited, tmp_path, monkeypatch):
    files = {f"sys/fs/cgroup{limited}/cpu.max": "100000 100000"}
    machine(monkeypatch, tmp_path, "0::/user/job/step\n", V2, files)
    assert cores.cores() == 1
    machine(monkeypatch, tmp_path / "v1", "1:cpu:/user/job/step\n", V1.format("/"), v1(limited, 1))
    assert cores.cores() == 1


def test_the_groups_of_others_do_not_count(tmp_path, monkeypatch):
    files = {f"sys/fs/cgroup/{name}/cpu.max": "1 100000" for name in ("other", "job/below")}
    machine(monkeypatch, tmp_path, "0::/job\n", V2, files)
    assert cores.cores() == 3


def test_both_versions_at_once(tmp_path, monkeypatch):
    mounts = V2 + V1.format("/")
    files = v1("/job", 200000) | {"sys/fs/cgroup/slice/cpu.max": "max 100000"}
    machine(monkeypatch, tmp_path, "1:cpu:/job\n0::/slice\n", mounts, files)
    assert cores.cores() == 2


@pytest.mark.parametrize("group", ["/docker/1234", "/", "/../elsewhere"])
def test_a_container_sees_its_own_group_as_the_top(group, tmp_path, monkeypatch):
    top = "/docker/1234" if group == "/docker/1234" else "/"
    machine(monkeypatch, tmp_path, f"1:cpu:{group}\n", V1.format(top), v1("", 100000))
    assert cores.cores() == 1


@pytest.mark.parametrize("name", ["caf\udce9", "a b", "a\x0cb", "a:b"])
def test_groups_and_mounts_of_any_name(name, tmp_path, monkeypatch):
    """Their bytes need not be UTF-8, and spaces are the only ones that are escaped."""
    other = f"29 23 0:26 / /mnt/{name.replace(' ', chr(92) + '040')} rw - tmpfs none rw\n"
    files = {f"sys/fs/cgroup/{name}/cpu.max": "100000 100000"}
    machine(monkeypatch, tmp_path, f"0::/{name}\n", other + V2, files)
    assert cores.cores() == 1


@pytest.mark.parametrize("groups, mounts", [("", V2), ("0::/\n", ""), ("", "")])
def test_files_that_are_empty(groups, mounts, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, groups, mounts, {"sys/fs/cgroup/cpu.max": "1 1"})
    assert cores.cores() == 3


def test_systems_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5}, raising=False)
    assert cores.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.cores() == 1
