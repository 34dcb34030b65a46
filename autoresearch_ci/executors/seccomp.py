"""The system calls that a walled native run cannot make: those that namespaces do not divide.

Of the default profile of Docker Engine, what a process without capabilities could still use against the machine: the kernel's key
rings, perf events, bpf, userfaultfd, io_uring, and sockets to the hypervisor and to the kernel's ciphers. The program is one of
classic BPF (seccomp(2), linux/filter.h), as bubblewrap's `--seccomp` reads it.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # struct seccomp_data, little-endian
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000
_X32: Final = 0x40000000  # the second numbering of x86-64
_FAMILIES: Final = (38, 40)  # AF_ALG, AF_VSOCK
# Of audit.h; then socket; then add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd, and three of io_uring.
_MACHINES: Final = {
    "x86_64": (0xC000003E, 41, (248, 249, 250, 321, 298, 323, 425, 426, 427)),
    "aarch64": (0xC00000B7, 198, (217, 218, 219, 280, 241, 282, 425, 426, 427)),
}


def program(machine: str) -> bytes:
    """The filter for a machine as `uname -m` names it; empty for one that has none."""
    if machine not in _MACHINES:
        return b""
    architecture, socket, refused = _MACHINES[machine]
    families = [step for family in _FAMILIES for step in _refuse(_EQUAL, family)]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),  # 32-bit programs have other numbers: none of their calls
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_refuse(_AT_LEAST, _X32),
        *(step for number in refused for step in _refuse(_EQUAL, number)),
        (_EQUAL, 0, 1 + len(families), socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        *families,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _refuse(comparison: int, value: int) -> list[tuple[int, int, int, int]]:
    """What is loaded is refused when it compares so with the value, else the next step goes on."""
    return [(comparison, 0, 1, value), (_RETURN, 0, 0, _REFUSE | errno.EPERM)]
