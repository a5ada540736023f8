"""Executors run transfers somewhere else and report what happens."""
