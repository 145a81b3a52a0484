"""What an initialization is and why, as a page with pictures."""

from zoo.lazy import lazy_names

__all__ = ["page_of", "write_page"]

__getattr__, __dir__ = lazy_names(__name__, {"page_of": "page", "write_page": "page"})
