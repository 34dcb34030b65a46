"""What trips, by its name: the table to read, and to add to."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a tripwire is about: the value is how a report names it."""

    SEED = "a changed seed"
    CLOCK = "the clock patched"
    MODULES = "the import system"
    PATCH = "code of others patched"
    EVALUATION = "another use of the evaluation or its data"
    METRIC = "another way to print the metric"
    ENVIRONMENT = "environment variables"
    PROCESS = "other processes"
    HOOK = "code that runs beside or after the training"
    NATIVE = "native code"
    NETWORK = "the network"
    CODE = "code made from data"
    HIDDEN = "a name that is not written out"
    STACK = "the interpreter's own objects"
    COMPARISON = "comparisons or numbers overloaded"
    WRITE = "writes outside the output folder"
    UNREADABLE = "a script that cannot be read"
    MORE = "more"


def _names(*names: str) -> re.Pattern[str]:
    """Any of these, or what is inside them, by their full name; also as `torch.os` or `prepare.sys`."""
    return re.compile(rf"^(?:\w[\w.]*\.)?(?:{'|'.join(names)})(?:\.|$)")


# When it is imported, called or only mentioned. The first that matches says the kind.
RULES: Final = (
    (Kind.MODULES, _names(r"sys\.(?:modules|meta_path|path|path_hooks|path_importer_cache)", "importlib", "imp",
                          "runpy", "pkgutil", r"builtins\.__import__")),
    (Kind.PROCESS, _names("subprocess", "pty", "multiprocessing", r"concurrent\.futures", r"asyncio\.create_subprocess\w*",
                          r"os\.(?:system|popen|exec\w*|spawn\w*|posix_spawn\w*|fork\w*|startfile|kill|killpg|setsid)")),
    (Kind.NATIVE, _names("ctypes", "_ctypes", "cffi", "_cffi_backend", "cppyy", r"torch\.utils\.cpp_extension",
                         r"torch\.(?:ops|classes)\.load_library")),
    (Kind.NETWORK, _names("socket", "_socket", "socketserver", "ssl", "http", "urllib", "urllib3", "requests", "httpx",
                          "aiohttp", "ftplib", "smtplib", "xmlrpc", "websockets", "paramiko",
                          r"asyncio\.(?:open_connection|start_server)", r"torch\.hub")),
    (Kind.CODE, _names(r"builtins\.(?:eval|exec|compile)", "marshal", "codeop", r"code\.[iI]nteract\w*",
                       r"(?:_?pickle|dill|cloudpickle|joblib|shelve)\.(?:loads?|Unpickler|open)", r"torch\.(?:jit\.)?load",
                       r"types\.(?:FunctionType|CodeType|ModuleType)")),
    (Kind.STACK, _names(r"inspect\.(?:stack|trace|currentframe|getframeinfo|get(?:outer|inner)frames|getmembers\w*|getsource\w*)",
                        r"sys\._\w*frames?", r"gc\.get_\w+", r"traceback\.(?:walk_\w+|extract_\w+|StackSummary)",
                        "tracemalloc", r"builtins\.(?:globals|locals)")),
    (Kind.HOOK, _names("atexit", "threading", "_thread", r"weakref\.finalize", r"os\.(?:_exit|abort|dup2?|register_at_fork)",
                       r"signal\.(?:signal|alarm|setitimer|siginterrupt|set_wakeup_fd|raise_signal|pthread_\w+)",
                       r"sys\.(?:settrace|setprofile|\w*hook|monitoring|__stdout__|__stderr__)")),
    (Kind.PATCH, _names("mock", r"unittest\.mock", "forbiddenfruit", r"builtins\.__builtins__")),
)  # fmt: skip

# What writes, and which argument says where: -1 is the last one, None says that no place makes it harmless.
WRITERS: Final[tuple[tuple[re.Pattern[str], int | None], ...]] = (
    (_names(r"os\.(?:symlink|link|chdir|fchdir|mkfifo|mknod|chroot)"), None),
    (_names(r"os\.(?:rename|renames|replace)", r"shutil\.(?:copy\w*|move)"), -1),
    (_names(r"os\.(?:open|remove|unlink|mkdir|makedirs|rmdir|removedirs|chmod|chown|truncate|utime)",
            r"shutil\.(?:rmtree|make_archive|unpack_archive|chown)", r"(?:numpy|np)\.save\w*", "tempfile"), 0),
    (_names(r"torch\.(?:jit\.)?save", r"safetensors\.\w+\.save_file"), 1),
)  # fmt: skip
OPENERS: Final = _names(r"(?:builtins|io|codecs|gzip|bz2|lzma)\.open", r"io\.FileIO")  # what the mode decides
PATH_METHODS: Final = frozenset(
    ("write_text", "write_bytes", "touch", "mkdir", "unlink", "rmdir", "rename", "chmod", "symlink_to", "hardlink_to")
)
FILE_METHODS: Final = frozenset(
    ("tofile", "savefig", "save_pretrained", "to_csv", "to_json", "to_pickle", "to_parquet")
)
PLACES: Final = frozenset(("file", "f", "path", "dst", "fname", "filename"))  # keywords that say where

# Attributes that lead from any object into the interpreter, whatever they are taken from.
INTERNALS: Final = frozenset(
    ("__dict__", "__globals__", "__code__", "__closure__", "__builtins__", "__subclasses__", "__bases__", "__mro__",
     "__defaults__", "__kwdefaults__", "__getattribute__", "__loader__", "__spec__", "__import__", "f_back", "f_globals",
     "f_locals", "f_builtins", "tb_frame", "gi_frame", "cr_frame")
)  # fmt: skip
OVERLOADS: Final = frozenset(
    ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__float__", "__format__", "__round__", "__bool__",
     "__instancecheck__")
)  # fmt: skip
# Names that need no import: what they stand for, and what nobody gives another meaning without a purpose.
BUILTINS: Final = frozenset(("eval", "exec", "compile", "__import__", "__builtins__", "open", "globals", "locals"))
NOT_REBOUND: Final = frozenset(("print", "open", "float", "round", "__import__", "__builtins__"))

CLOCKS: Final = re.compile(r"^(?:time|_time|datetime|timeit)(?:\.|$)")
CLOCK_NAMES: Final = frozenset(
    ("time", "datetime", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time")
)
ENVIRONMENT: Final = re.compile(r"(?:^|\.)os\.(?:environb?|getenvb?|putenv|unsetenv)(?:\.|$)")
# Attributes of others that are there to be set; `os.environ` has a kind of its own.
SETTABLE: Final = re.compile(
    r"^(?:torch\.backends|torch\._(?:dynamo|inductor|functorch)\.config|matplotlib|os\.environ)\b"
)

SEEDS: Final = re.compile(r"(?:^|_)seeds?(?:$|_|\d)|^random_?state$", re.IGNORECASE)
SEEDERS: Final = frozenset(
    ("manual_seed", "manual_seed_all", "seed", "seed_all", "seed_everything", "set_seed", "default_rng", "RandomState",
     "SeedSequence", "PRNGKey", "set_rng_state", "set_rng_state_all")
)  # fmt: skip

OUR_VARIABLES: Final = re.compile(r"AUTORESEARCH_\w+")
OUR_SEED: Final = "AUTORESEARCH_SEED"
OUTPUTS: Final = "AUTORESEARCH_OUTPUT_DIR"  # the one that any script may begin to read
NUMBER_LINE: Final = re.compile(r"^\s*[A-Za-z]\w*\s*[:=]\s*[-+]?\.?\d")
