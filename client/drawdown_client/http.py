"""The HTTP library: httpx, or httpx2, its maintained successor with the same API, where httpx is not installed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
else:
    try:
        import httpx
    except ImportError:
        import httpx2 as httpx

__all__ = ["httpx"]
