"""Mutual-information scaling of text, and what it asks of a model's memory.

The names of the README are here, and each is loaded with its module when it is first asked for: `import l2m` costs nothing.
"""

import warnings
from importlib import import_module

__version__ = "0.1.0"

_HOMES = {  # name: the module that has it
    "load_corpus": "corpora",
    "token_windows": "windows",
    "load_scorer": "loading",
    "measure_bipartite": "bipartite",
    "bipartite_mi": "estimators",
    "fit_power_law": "scaling",
    "fit_laws": "scaling",
    "two_point_mi": "two_point",
    "fit_two_point": "two_point",
    "history_state": "state",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'l2m' has no attribute '{name}'")
    globals()[name] = found = getattr(import_module(f"l2m.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def moved(old: str, *parts: str):
    "A `__getattr__` for a module that was split: it finds public names in its parts, and says where they are now."

    def __getattr__(name: str):
        for part in parts if not name.startswith("_") else ():
            module = import_module(f"l2m.{part}")
            if name in module.__all__:
                warnings.warn(f"{name} has moved: from l2m.{part} import {name}", DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module 'l2m.{old}' has no attribute '{name}'")

    return __getattr__
