"""The example that `intarsia demo` runs: a photograph, a label map of it, and three style pictures."""
