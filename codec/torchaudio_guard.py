"""Makes `import torchaudio` (and so `import encodec`) work whatever torch it meets.

The registry's torchaudio wheel carries a native extension linked to CUDA. Beside a CPU build of torch that extension
cannot be loaded, and torchaudio raises on import, although all that is asked of it here (resampling, filters, EnCodec's
helpers) is plain Python over torch. The untouched import is tried first, so a machine whose builds agree keeps the
extension; only when it fails is torchaudio imported again with the extension reported as absent. No file is changed.
Call `import_torchaudio` or `import_encodec` in the process that needs them: each of Ray's workers is one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from cluster.errors import UserError

_LOADER = "torchaudio._extension.utils"  # the module whose `_load_lib` loads the native libraries


def import_torchaudio() -> ModuleType:
    """The torchaudio module, with its native extension where that loads, without it elsewhere.

    Raises ImportError when the package is not installed.
    """
    if "torchaudio" in sys.modules:
        return sys.modules["torchaudio"]
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as error:
        if error.name == "torchaudio":
            raise
    except (ImportError, OSError, RuntimeError):  # an unloadable library, or one built for another CUDA
        pass
    _forget("torchaudio")
    sys.modules[_LOADER] = _loader_without_libraries()
    return importlib.import_module("torchaudio")


def import_encodec() -> ModuleType:
    """The encodec package, importable beside any torch build. Raises UserError when it is not installed."""
    try:
        import_torchaudio()
        return importlib.import_module("encodec")
    except ModuleNotFoundError as error:
        raise UserError(
            f"codec: got kind encodec without the package {error.name}, allowed: pip install encodec"
        ) from error


def _loader_without_libraries() -> ModuleType:
    """torchaudio's library loader as its own file defines it, answering of every library that it is not there.

    Put into `sys.modules` before the package, it is what `torchaudio._extension` then imports.
    """
    package = importlib.util.find_spec("torchaudio")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'torchaudio'", name="torchaudio")
    spec = importlib.util.spec_from_file_location(_LOADER, Path(package.origin).parent / "_extension" / "utils.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot read {_LOADER}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["_load_lib"] = lambda lib: False
    return module


def _forget(package: str) -> None:
    """Drops what a failed import left half-initialised."""
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        del sys.modules[name]
