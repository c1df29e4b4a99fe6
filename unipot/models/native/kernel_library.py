"""Compiles the C source of a CPU kernel with the system compiler, once per machine, and loads it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock

#: environment variable: folder of compiled kernels
KERNEL_FOLDER_VARIABLE = "UNIPOT_KERNELS"
#: tried one after the other: not every compiler knows OpenMP, or how to name this processor
_FLAGS = (
    ("-O3", "-fno-math-errno", "-march=native", "-fopenmp"),
    ("-O3", "-fno-math-errno", "-mcpu=native", "-fopenmp"),
    ("-O3", "-fno-math-errno", "-march=native"),
    ("-O3", "-fno-math-errno", "-mcpu=native"),
    ("-O3", "-fno-math-errno"),
)
_SECONDS = 120


class KernelUnavailableError(RuntimeError):
    """There is no compiler, or it does not compile the kernel; the message says which."""


def kernel(source: Path) -> ctypes.CDLL:
    """As `load_kernel`, once per process, failures included.

    Raises:
        KernelUnavailableError: see `load_kernel`.
    """
    loaded = load_once(source)
    if isinstance(loaded, KernelUnavailableError):
        raise loaded
    return loaded


@cache
def load_once(source: Path) -> ctypes.CDLL | KernelUnavailableError:
    """The kernel, or why there is none."""
    try:
        return load_kernel(source)
    except KernelUnavailableError as error:
        return error


def kernel_folder() -> Path:
    """$UNIPOT_KERNELS, else unipot/kernels in $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get(KERNEL_FOLDER_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unipot" / "kernels"


def find_compiler() -> str:
    """Path of $CC, else of the first of cc, gcc and clang.

    Raises:
        KernelUnavailableError: none of them is there.
    """
    if chosen := os.environ.get("CC"):
        if found := shutil.which(chosen):
            return found
        raise KernelUnavailableError(f"the compiler that CC names, {chosen!r}, was not found")
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return found
    raise KernelUnavailableError("no C compiler was found (CC, cc, gcc, clang); install one, for instance with `apt install gcc`")


def load_kernel(source: Path) -> ctypes.CDLL:
    """The shared library of `source`, from the cache or compiled now.

    Args:
        source: a C file that needs no headers but those of the C library.

    Raises:
        KernelUnavailableError: no compiler, no folder to write to, or the compiler fails.
    """
    compiler = find_compiler()
    try:
        folder = kernel_folder()
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / f"{source.stem}-{_digest(source, compiler)}.so"
        if not library.exists():
            with FileLock(f"{library}.lock"):
                if not library.exists():
                    _compile(source, compiler, library)
        return ctypes.CDLL(str(library))
    except KernelUnavailableError:
        raise
    except (OSError, RuntimeError) as error:  # no home folder, one that cannot be written or locked, a library that is not executable
        raise KernelUnavailableError(f"the kernel can neither be written nor loaded: {error}; set {KERNEL_FOLDER_VARIABLE}") from error


def _digest(source: Path, compiler: str) -> str:
    """Changes with everything the machine code depends on: a home folder may be shared between unlike machines."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_SECONDS, check=False).stdout
    parts = (source.read_bytes(), compiler.encode(), version, repr(_FLAGS).encode(), _processor().encode())
    return blake2b(b"\0".join(parts), digest_size=12).hexdigest()


def _processor() -> str:
    """Architecture, model and instruction sets of this processor, as far as the system tells."""
    described = [platform.machine(), platform.processor()]
    description = Path("/proc/cpuinfo")
    if description.exists():
        kept = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        lines = description.read_text(encoding="utf-8", errors="replace").splitlines()
        described += sorted({line for line in lines if line.startswith(kept)})
    return "\n".join(described)


def _compile(source: Path, compiler: str, library: Path) -> None:
    """Under another name first, so that what bears the name is whole."""
    message = ""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        for flags in _FLAGS:
            command = [compiler, *flags, "-shared", "-fPIC", "-o", str(unfinished), str(source.resolve()), "-lm"]
            try:
                result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            except subprocess.TimeoutExpired:
                raise KernelUnavailableError(f"{compiler} took more than {_SECONDS} s for {source.name}") from None
            if result.returncode == 0:
                unfinished.replace(library)
                return
            message = message or result.stderr.strip()
    raise KernelUnavailableError(f"{compiler} does not compile {source.name}: {message[-400:]}")
