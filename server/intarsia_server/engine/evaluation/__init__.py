"""Figures of merit of a finished picture: one module each, put together by `evaluate`."""
