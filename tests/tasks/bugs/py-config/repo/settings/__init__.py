from .reader import parse
from .types import as_bool, as_list

__all__ = ["as_bool", "as_list", "parse"]
