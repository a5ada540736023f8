"""The style transfer itself: plain torch, no gRPC, no asyncio, no I/O beyond images and weights.

This package imports nothing by itself: `request`, `parameters`, `images` and `segmentation` must stay importable in
a process that never loads torch.
"""
