"""The HTTP library: httpx. If it is not installed: httpx2, its maintained successor with the same API."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
else:
    try:
        import httpx
    except ImportError:
        import httpx2 as httpx

__all__ = ["httpx"]
