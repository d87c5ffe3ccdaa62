"""Takes from this process what a plugin has no use for: files, network, other processes, memory without end.

Layers, each where the kernel has it, and none needs privileges: limits (setrlimit), capabilities given up, landlock for
paths, TCP and signals, and a seccomp filter for system calls. Linux on x86-64 and aarch64; elsewhere only the limits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a plugin's process may have.

    `readable` and `writable` are files and folders beside the interpreter, the installed packages and the system's
    libraries, which it can always read.
    """

    memory_bytes: int = 4 << 30
    network: bool = False
    subprocesses: bool = False
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()


_LARGEST_FILE = 1 << 30
_OPEN_FILES = 1024
_MORE_TASKS = 512
_NICE = 5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process with the thread that started it; raises where it has ended already."""
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the server has ended")


def confine(limits: Limits) -> tuple[str, ...]:
    """Apply every layer that this kernel has; gives their names. There is no way back."""
    applied = ["limits"]
    _set_limits(limits)
    if not sys.platform.startswith("linux"):
        return tuple(applied)
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if os.geteuid() == 0 and _drop_capabilities():
        applied.append("capabilities")
    if abi := _restrict_paths(limits):
        applied.append(f"landlock {abi}")
    if _filter_calls(limits):
        applied.append("seccomp")
    return tuple(applied)


def limit_cpu(seconds: float) -> None:
    """From now on so much processor time, of all threads; then the kernel ends the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 2
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


# -- limits ------------------------------------------------------------------------------------------------------------


def _set_limits(limits: Limits) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = {
        resource.RLIMIT_AS: mapped + limits.memory_bytes,
        resource.RLIMIT_FSIZE: _LARGEST_FILE,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if limits.subprocesses:
        wanted[resource.RLIMIT_NPROC] = _tasks_of_this_user() + _MORE_TASKS
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    with suppress(OSError):
        os.nice(_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this process than the server


def _tasks_of_this_user() -> int:
    count = 0
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and folder.stat().st_uid == os.getuid():
                count += len(list((folder / "task").iterdir()))
    return count


def _drop_capabilities() -> bool:
    number = 0
    while _libc.prctl(24, number, 0, 0, 0) == 0:  # PR_CAPBSET_DROP
        number += 1
    header = struct.pack("<Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    return bool(_libc.capset(header, bytes(24)) == 0)


# -- landlock: which files, which TCP, whose signals -------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in (0, 1, 2, 3, 14, 15))
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Every right to files that a version of landlock knows."""

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone"),
    *("/etc/alternatives", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs"),
    *("/etc/pki/ca-trust", "/etc/mime.types"),
    *("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"),
    *("/proc/stat", "/proc/version", "/proc/filesystems", "/sys/devices/system"),
)
_FOR_NETWORK = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
)


def _restrict_paths(limits: Limits) -> int:
    """Allow the paths that a plugin needs and no other; gives the version of landlock, 0 where there is none."""
    abi = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))  # LANDLOCK_CREATE_RULESET_VERSION
    if abi < 1:
        return 0
    handled = _RIGHTS[min(abi, 5)]
    tcp = 0 if limits.network or abi < 4 else 0b11  # bind, connect
    scoped = 0b11 if abi >= 6 else 0  # abstract sockets, signals
    attributes = struct.pack("<QQQ", handled, tcp, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = int(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    if ruleset < 0:
        return 0
    try:
        system = _SYSTEM + (_FOR_NETWORK if limits.network else ())
        for path, rights in (
            *((path, _READ) for path in (*system, *_installation(), *limits.readable)),
            *((path, _READ_DIR) for path in sys.path),
            *((path, handled & ~_EXECUTE) for path in ("/dev/null", *limits.writable)),
        ):
            _allow(ruleset, path, rights & handled)
        return abi if _libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _installation() -> Iterator[str]:
    """The interpreter and what can be imported.

    Of a folder outside the interpreter's, such as a checkout, only what is importable: more than code may lie there.
    """
    roots = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    yield from roots
    yield from (sys.prefix, os.path.dirname(os.path.realpath(sys.executable)))
    for path in sys.path:
        if os.path.isfile(path) or os.path.basename(path) in ("site-packages", "dist-packages"):
            yield path
        elif os.path.isdir(path) and not any(_is_below(os.path.realpath(path), root) for root in roots):
            for entry in os.scandir(path):
                is_code = entry.name.endswith((".py", ".so", ".pth", ".dist-info", ".egg-info"))
                if is_code or os.path.isfile(os.path.join(entry.path, "__init__.py")):
                    yield entry.path


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(path):
            rights &= _OF_FILES
        if rights:
            rule = struct.pack("<Qi", rights, fd)
            _libc.syscall(_ADD_RULE, ruleset, 1, rule, 0)  # LANDLOCK_RULE_PATH_BENEATH
    finally:
        os.close(fd)


# -- seccomp: which system calls ---------------------------------------------------------------------------------------

# Numbers on x86-64 and aarch64; None where there is no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # Other processes, their memory and their files.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "tkill": (200, 130),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setsid": (112, 157),  # what leaves the group would outlive it
    "setpgid": (109, 154),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    # What landlock does not look at, though the files may be the server's.
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    # The kernel and the machine.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "personality": (135, 92),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
_NEW_PROCESS: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
}
_OF_ONESELF = {"kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
_OF_ONESELF_OR_0 = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_CLONE, _CLONE3, _SOCKET, _PRCTL = (56, 220), (435, 435), (41, 198), (157, 167)
_LAST_KNOWN = 451
"""System calls that came later are not there for a plugin: libraries have to do without on older kernels as well."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE_THREAD, _CLONE_NEW = 0x10000, 0x7E020080
_AF_INET, _AF_INET6 = 2, 10

_LOAD, _EQUAL, _GREATER, _SET, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes, little-endian

type _Instruction = tuple[int, int, int, int]


def _filter_calls(limits: Limits) -> bool:
    """Have the kernel refuse the system calls above; false where this is no machine that the table knows."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    index, arch = _ARCHITECTURES[platform.machine()]
    program = list(_program(limits, index, arch, os.getpid()))
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in program))
    prog = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    number = {0: 317, 1: 277}[index]  # seccomp
    return bool(_libc.syscall(number, 1, 1, prog) == 0)  # SECCOMP_SET_MODE_FILTER, for all threads


def _program(limits: Limits, index: int, arch: int, pid: int) -> Iterator[_Instruction]:
    """The filter in classic BPF; jumps count the instructions that they skip: where it is so, and where it is not."""
    yield (_LOAD, 0, 0, _ARCH)
    yield (_EQUAL, 1, 0, arch)
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    yield from ((_GREATER, 0, 1, _LAST_KNOWN), (_RETURN, 0, 0, _ENOSYS))  # those of another ABI too
    yield from ((_EQUAL, 0, 1, _CLONE3[index]), (_RETURN, 0, 0, _ENOSYS))  # its flags lie in memory; libc tries clone
    denied = _DENIED if limits.subprocesses else _DENIED | _NEW_PROCESS
    for numbers in denied.values():
        if (number := numbers[index]) is not None:
            yield from ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM))
    if limits.subprocesses:
        yield from _if(_CLONE[index], 0, ((_SET, 0, 1, _CLONE_NEW),), on_match=_EPERM, otherwise=_ALLOW)
    else:
        yield from _if(_CLONE[index], 0, ((_SET, 0, 1, _CLONE_THREAD),), on_match=_ALLOW, otherwise=_EPERM)
    families = (_AF_INET, _AF_INET6) if limits.network else ()
    yield from _if(_SOCKET[index], 0, _one_of(families), on_match=_ALLOW, otherwise=_EPERM)
    yield from _if(_PRCTL[index], 0, _one_of((1,)), on_match=_EPERM, otherwise=_ALLOW)  # PR_SET_PDEATHSIG
    for numbers in _OF_ONESELF_OR_0.values():
        yield from _if(numbers[index], 0, _one_of((0, pid)), on_match=_ALLOW, otherwise=_EPERM)
    if not limits.subprocesses:  # whoever has children ends them; landlock keeps its signals to them
        for numbers in _OF_ONESELF.values():
            yield from _if(numbers[index], 0, _one_of((pid,)), on_match=_ALLOW, otherwise=_EPERM)
    yield (_RETURN, 0, 0, _ALLOW)


def _one_of(values: Iterable[int]) -> tuple[_Instruction, ...]:
    return tuple((_EQUAL, 0, 1, value) for value in values)


def _if(
    number: int, argument: int, tests: tuple[_Instruction, ...], *, on_match: int, otherwise: int
) -> Iterator[_Instruction]:
    """For one system call: what becomes of it where its argument passes one of the tests, and where not."""
    yield (_EQUAL, 0, 2 + 2 * len(tests), number)
    yield (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    for test in tests:
        yield test
        yield (_RETURN, 0, 0, on_match)
    yield (_RETURN, 0, 0, otherwise)
