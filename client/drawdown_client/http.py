"""The HTTP library.

The client uses httpx. If httpx is not installed, it uses httpx2, the maintained successor with the same API.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx
else:
    try:
        import httpx
    except ImportError:
        import httpx2 as httpx

__all__ = ["httpx"]
