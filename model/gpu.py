"""The GPUs that torch can use here, and why there are none. Torch is imported only when asked."""

from __future__ import annotations

from pathlib import Path

# A driver with a GPU shows one of these: NVIDIA's, WSL's, AMD's.
DRIVERS = tuple(Path(path) for path in ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/dxg", "/dev/kfd"))


def count() -> int:
    """The number of GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def why_none() -> str:
    """Why ``count`` is 0, and what helps: one sentence without a capital or a full stop."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is a build for CPUs; install the CUDA build (the one on PyPI)"
    if not any(path.exists() for path in DRIVERS):
        return (
            f"torch {torch.__version__} can use a GPU, but no driver is visible; install NVIDIA's driver, "
            "or start the container with --gpus all (NVIDIA Container Toolkit)"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"the driver refuses torch {torch.__version__}: {str(error).strip().partition(chr(10))[0]}"
    return "no GPU is visible; see CUDA_VISIBLE_DEVICES and nvidia-smi -L"
