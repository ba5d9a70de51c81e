"""The machine and its folders: processor, memory, graphics cards as the system sees them, limits, disks, writing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from visionkit.cache_place import cache_folder
from visionkit.doctor_findings import Check, Finding

GIB = 1 << 30
_LEAST_DISK, _GOOD_DISK = GIB // 4, 4 * GIB
_GOOD_MEMORY, _GOOD_SHARED, _GOOD_FILES = 2 * GIB, GIB // 4, 1024
_NVIDIA = "name,driver_version,memory.total,memory.used"
SETTINGS = ("VISIONKIT_CACHE", "VISIONKIT_DATA", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
"""Variables of the environment that change what visionkit does."""


def machine_checks() -> Mapping[str, Check]:
    """The checks by name."""
    return {
        "system": _system,
        "processor": _processor,
        "memory": _memory,
        "nvidia": _nvidia,
        "shared memory": _shared_memory,
        "open files": _open_files,
        "environment": _environment,
    }


def folder_checks(run_folder: Path) -> Mapping[str, Check]:
    """What is tried in the folder of runs and in that of caches."""
    return {
        "runs": partial(_folder, "runs", run_folder, "choose another with run_dir=DIR"),
        "cache": partial(_folder, "cache", cache_folder(), "choose another by the variable VISIONKIT_CACHE"),
    }


def _system() -> Iterator[Finding]:
    yield Finding("system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")


def _processor() -> Iterator[Finding]:
    all_of_them = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_of_them
    allowed = _cgroup("cpu.max").split()
    share = int(allowed[0]) / int(allowed[1]) if len(allowed) == 2 and allowed[0].isdecimal() else float(usable)
    cores = f"{usable} of {all_of_them} cores" if usable < all_of_them else f"{usable} core{'s' * (usable != 1)}"
    limit = f", of whose time this container may take {share:.3g}" if share < usable else ""
    yield Finding("processor", "ok", f"{_processor_name()}, {cores}{limit}")


def _processor_name() -> str:
    file = Path("/proc/cpuinfo")
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> Iterator[Finding]:
    file = Path("/proc/meminfo")
    if not file.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield Finding("memory", "ok", f"{total / GIB:.1f} GiB")
        return
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file.read_text().splitlines()}
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    limit = _cgroup("memory.max")
    told = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    if limit.isdecimal() and int(limit) < total:
        told += f"; this container may take {int(limit) / GIB:.1f}"
        free = min(free, int(limit))
    if free >= _GOOD_MEMORY:
        yield Finding("memory", "ok", told)
    else:
        mend = "close other programs, or train with a smaller data.batch_size and data.workers=0"
        yield Finding("memory", "warning", told, mend)


def _nvidia() -> Iterator[Finding]:
    """Cards as the driver tells of them, without torch, which may not see them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    asked = [tool, f"--query-gpu={_NVIDIA}", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        yield Finding("nvidia", "fault", "the driver does not answer (nvidia-smi, 20 s)", "restart the machine")
        return
    if done.returncode != 0:
        reason = ((done.stdout + done.stderr).strip().splitlines() or ["no reason given"])[0]
        yield Finding("nvidia", "warning", f"nvidia-smi fails: {reason}", "install the driver anew, then restart")
    for number, line in enumerate(done.stdout.splitlines() if done.returncode == 0 else []):
        name, driver, total, used = (part.strip() for part in line.split(","))
        yield Finding(f"nvidia {number}", "ok", f"{name}, driver {driver}, {used} of {total} in use")


def _shared_memory() -> Iterator[Finding]:
    place = Path("/dev/shm")
    if not place.is_dir():
        return
    disk = shutil.disk_usage(place)
    told = f"{disk.free / GIB:.2f} of {disk.total / GIB:.2f} GiB free in {place}"
    if disk.free >= _GOOD_SHARED:
        yield Finding("shared memory", "ok", told)
    else:
        mend = "loading processes hand images over in it: docker run --shm-size=2g (or --ipc=host), or data.workers=0"
        yield Finding("shared memory", "warning", told, mend)


def _open_files() -> Iterator[Finding]:
    if os.name == "nt":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _GOOD_FILES:
        yield Finding("open files", "ok", f"{soft if soft != resource.RLIM_INFINITY else 'any number'} at a time")
    else:
        yield Finding("open files", "warning", f"{soft} at a time, with loading processes too few", "ulimit -n 4096")


def _environment() -> Iterator[Finding]:
    given = [f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
    yield Finding("environment", "ok", " ".join(given) or f"none of {', '.join(SETTINGS)} is set")


def _cgroup(name: str) -> str:
    file = Path("/sys/fs/cgroup") / name
    try:
        return file.read_text().strip()
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------------------ folders
def _folder(name: str, folder: Path, mend: str) -> Iterator[Finding]:
    """Can what visionkit does there be done: write, sync, rename, link? Nothing stays behind."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    where = str(folder.absolute()) if there == folder.absolute() else f"{folder.absolute()} (to be made in {there})"
    if not there.is_dir():
        yield Finding(name, "fault", f"{there} is a file, no folder", mend)
        return
    free = shutil.disk_usage(there).free
    room = f"{free / GIB:.1f} GiB free" if free >= GIB else f"{free >> 20} MiB free"
    try:
        trial = Path(tempfile.mkdtemp(prefix=".visionkit-doctor-", dir=there))
    except OSError as error:
        yield Finding(name, "fault", f"{where}: cannot be written to ({error.strerror})", mend)
        return
    try:
        cannot = _tried(trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if cannot:
        yield Finding(name, "fault", f"{where}: {cannot}", mend)
    elif free < _LEAST_DISK:
        yield Finding(name, "fault", f"{where}: {room}", f"make room, or {mend}")
    elif free < _GOOD_DISK:
        yield Finding(name, "warning", f"{where}: {room}, where long runs may need more", f"make room, or {mend}")
    else:
        yield Finding(name, "ok", f"{where}: {room}; writing, syncing, renaming and linking work")


def _tried(trial: Path) -> str:
    """What cannot be done in a folder, or nothing."""
    step = "writing"
    try:
        with (trial / "new").open("wb") as file:
            file.write(b"visionkit" * 1000)
            step = "syncing"
            file.flush()
            os.fsync(file.fileno())
        step = "renaming over a file"
        (trial / "old").write_bytes(b"")
        (trial / "new").replace(trial / "old")
        step = "reading back"
        if (trial / "old").read_bytes() != b"visionkit" * 1000:
            return "what is read is not what was written"
        step = "making a symbolic link"
        (trial / "link").symlink_to("old")
    except OSError as error:
        return f"{step} fails ({error.strerror})"
    return ""
