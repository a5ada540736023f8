"""Benchmarks: Intarsia against the publication's procedure. Not installed; run from the repository's root."""
