"""What a program that meets files of strangers may do: no network, no files but its own libraries and the one on stdin, few resources.

All of it works without privileges, in a container that has dropped every capability as well, where a network namespace (`unshare -rn`)
is forbidden: a seccomp filter takes the system calls away, Landlock the files.
"""

import ctypes
import os
import resource
import struct
from signal import SIGKILL

LIMITS = {
    resource.RLIMIT_AS: 4 * 1024**3,  # an MP3 takes 33 MB, but the stack and arena of each thread (72 MB) count as well
    resource.RLIMIT_FSIZE: 0,  # it writes to pipes and nowhere else
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NOFILE: 64,
}
DOES_NOT_START = 126  # as a shell's; 127 is the loader's when a library is missing

# prctl(2)
SET_PARENT_DEATH_SIGNAL, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 22, 38
FILTER = 2

# seccomp(2): classic BPF over {int nr; u32 arch; …}. An emulated amd64 container shows its calls as those of the machine below, hence
# both architectures in one filter. socket; io_uring_setup, which opens sockets by itself; ptrace, process_vm_readv, process_vm_writev
# and pidfd_getfd, which reach into other processes.
DENIED = {0xC000003E: (41, 425, 101, 310, 311, 438), 0xC00000B7: (198, 425, 117, 270, 271, 438)}  # x86-64, aarch64
X32_CALLS = 0x40000000
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 13, 0x80000000  # 13: EACCES

# landlock(7)
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE, READ, LIST = 1, 2, 4, 8
LIBRARIES = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives")
MACHINE = ("/sys/devices/system/cpu", "/dev/random", "/dev/urandom", "/dev/zero")  # without random numbers C++ libraries abort

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """0 where the kernel has none or the container forbids it: then a confined program may read what its user may."""
    return max(0, int(_libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def confine(program: str, *, parent: int, cpu_s: int) -> None:
    """Of this process, for good. Raises `OSError` where the kernel has no seccomp filters."""
    for kind, most in (LIMITS | {resource.RLIMIT_CPU: cpu_s}).items():
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)  # a container's own limit cannot be raised
        resource.setrlimit(kind, (allowed, allowed))
    _control(SET_PARENT_DEATH_SIGNAL, SIGKILL)
    if os.getppid() != parent:
        raise ProcessLookupError("its parent ended first")
    _control(SET_NO_NEW_PRIVILEGES, 1)
    if version := landlock_version():
        _keep_from_files(program, version)
    _keep_from_calls()


def _keep_from_files(program: str, version: int) -> None:
    files = 0x1FFF | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)  # every right that the version knows
    tcp, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)  # scoped: abstract sockets and signals stay inside
    attributes = struct.pack("=QQQ", files, tcp, scoped)
    ruleset = _checked(_libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    folder = os.path.dirname(os.path.realpath(program))
    for place in (*LIBRARIES, *MACHINE, folder, os.path.join(os.path.dirname(folder), "lib")):
        _allow(ruleset, place, EXECUTE | READ | LIST)
    _allow(ruleset, program, EXECUTE | READ)
    _allow(ruleset, "/dev/null", READ | WRITE)
    _allow(ruleset, "/dev/stdin", READ)
    _checked(_libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, place: str, rights: int) -> None:
    try:
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this machine
    if not os.path.isdir(place):
        rights &= ~LIST
    _checked(_libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, opened), 0))
    os.close(opened)


def _keep_from_calls() -> None:
    program = [_step(LOAD, 4)]
    for architecture, numbers in DENIED.items():
        block = _block(numbers)
        program += [_step(EQUAL, architecture, otherwise=len(block)), *block]
    program.append(_step(RETURN, KILL))
    steps = ctypes.create_string_buffer(b"".join(program))
    head = struct.pack("@HP", len(program), ctypes.addressof(steps))
    _control(SET_SECCOMP, FILTER, head)


def _block(numbers: tuple[int, ...]) -> list[bytes]:
    """What one architecture's calls meet."""
    tests = [_step(EQUAL, number, then=len(numbers) - index + 1) for index, number in enumerate(numbers)]
    return [_step(LOAD, 0), *tests, _step(AT_LEAST, X32_CALLS, then=1), _step(RETURN, ALLOW), _step(RETURN, REFUSE)]


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _control(option: int, *arguments: int | bytes) -> None:
    padded = [argument if isinstance(argument, bytes) else ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0)]
    _checked(_libc.prctl(option, *padded[:4]))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
