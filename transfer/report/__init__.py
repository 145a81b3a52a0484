"""What an initialization is and why, as a page with pictures; the ranks of a delta as a picture."""

from zoo.lazy import lazy_names

__all__ = ["draw_ranks", "page_of", "write_page"]

__getattr__, __dir__ = lazy_names(__name__, {"draw_ranks": "ranks", "page_of": "page", "write_page": "page"})
