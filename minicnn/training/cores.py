"""How many cores this process may use.

A process is bound to certain cores, and may also be limited by control groups, which containers and
batch systems set: a quota is so many microseconds of computing in each period of so many. A process
is in one group of each hierarchy, and the limits of all enclosing groups apply too. Version 2 has a
single hierarchy, version 1 one for each kind of limit, and a system may have both.

Source: the Linux kernel's documentation of control groups, versions 1 and 2, and proc(5).
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def cores() -> int:
    """The number of cores that this process is bound to, but no more than the quotas of its control
    groups allow; at least one."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only, as are control groups
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.floor(min([count, *_quotas()])))


def _quotas() -> Iterator[float]:
    """The limits of the control groups around this process, in cores."""
    for folder in _groups():
        try:
            if (folder / "cpu.max").is_file():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = ((folder / name).read_text() for name in names)
            if int(quota) > 0:  # in version 1, -1 means no limit
                yield int(quota) / int(period)
        except (OSError, ValueError):  # a group without a limit: no files, or a quota of "max"
            continue


def _groups() -> Iterator[Path]:
    """The folders of the groups around this process in each hierarchy that may limit its time."""
    try:
        memberships, mounts = (
            os.fsdecode((ROOT / "proc/self" / name).read_bytes()).split("\n")[:-1]
            for name in ("cgroup", "mountinfo")
        )
    except OSError:
        return
    groups = {}
    for membership in memberships:
        _, controllers, group = membership.split(":", 2)
        if not controllers:
            groups["cgroup2"] = group
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = group
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        # the group that is mounted, and where
        top, folder = where.split(" ")[3:5]
        kind, *_, options = what.split(" ")
        if kind in groups and (kind == "cgroup2" or "cpu" in options.split(",")):
            inside = os.path.relpath(groups[kind], top)
            parts = () if inside.startswith("..") else Path(inside).parts
            for depth in range(len(parts) + 1):
                yield ROOT / folder[1:] / Path(*parts[:depth])
