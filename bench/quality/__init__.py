"""The quality table: every method on every set, measured as `intarsia evaluate` measures."""
