"""What the loader really gives: `python -m worker.doctor.probe NAME...`, in a process of its own, since a wrong cuDNN aborts it.

A name is `torch`, `ctranslate2`, `dispatcher` (CTranslate2's bundled part of cuDNN) or a library's file name. Each gets a line of
JSON as soon as it is known: `{"name", "answer"}` or `{"name", "error"}`.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FAILURES = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
RTLD_DI_LINKMAP = 2  # dlfcn.h
Answer = dict[str, Any]


class _LinkMap(ctypes.Structure):
    """The first fields of link.h's struct."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def _torch() -> Answer:
    torch = import_module("torch")
    return {"version": torch.__version__, "cuda": torch.version.cuda, "archs": (torch._C._cuda_getArchFlags() or "").split()}


def _ctranslate2() -> Answer:
    return {"version": import_module("ctranslate2").__version__}


def _dispatcher() -> Answer:
    """Has it load its parts, which needs no GPU; they abort the process when they cannot be loaded."""
    spec = find_spec("ctranslate2")
    if spec is None or spec.origin is None:
        raise ImportError("there is no ctranslate2")
    found = sorted((Path(spec.origin).parents[1] / "ctranslate2.libs").glob("libcudnn-*"))
    if not found:
        raise OSError("ctranslate2's wheel came without its libcudnn")
    library = ctypes.CDLL(str(found[0]))
    statuses = {"ops_infer": library.cudnnOpsInferVersionCheck(), "cnn_infer": library.cudnnCnnInferVersionCheck()}
    return {"path": str(found[0]), "version": _cudnn_version(library), "statuses": statuses}


def _library(name: str) -> Answer:
    library = ctypes.CDLL(name)
    return {"path": os.path.realpath(_path(library)), "version": _version(name, library)}


def _path(library: ctypes.CDLL) -> str:
    """Where the loader found it, which for a name that was loaded before is where it was then."""
    found = ctypes.POINTER(_LinkMap)()
    dlinfo = ctypes.CDLL(None).dlinfo
    dlinfo.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    if dlinfo(library._handle, RTLD_DI_LINKMAP, ctypes.byref(found)) != 0:
        raise OSError("the loader does not say where it found the library")
    return os.fsdecode(found.contents.name)


def _version(name: str, library: ctypes.CDLL) -> str | None:
    """None where the library does not tell: cnn_infer has none of its own."""
    if name.startswith("libcublas."):
        return ".".join(str(_cublas_property(library, kind)) for kind in range(3))  # library_types.h: major, minor, patch
    if name.startswith("libnvrtc."):
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"
    return _cudnn_version(library) if name.startswith(("libcudnn_ops_infer.", "libcudnn.")) else None


def _cublas_property(library: ctypes.CDLL, kind: int) -> int:
    value = ctypes.c_int()
    library.cublasGetProperty(kind, ctypes.byref(value))
    return value.value


def _cudnn_version(library: ctypes.CDLL) -> str:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    unit = 1000 if number < 90000 else 10000  # 8907 is 8.9.7, 90100 is 9.1.0
    return f"{number // unit}.{number % unit // 100}.{number % 100}"


QUESTIONS: dict[str, Callable[[], Answer]] = {"torch": _torch, "ctranslate2": _ctranslate2, "dispatcher": _dispatcher}


def main(names: list[str]) -> None:
    for package in ("torch", "ctranslate2"):  # as in the worker: what they load decides what the names resolve to
        with suppress(*FAILURES):
            import_module(package)
    for name in names:
        try:
            line = {"name": name, "answer": QUESTIONS.get(name, partial(_library, name))()}
        except FAILURES as error:
            line = {"name": name, "error": str(error) or type(error).__name__}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()  # the next name may end the process


if __name__ == "__main__":
    main(sys.argv[1:])
