"""Promise: the examples in clients/examples work as written, against a real server."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "clients" / "examples"


def loaded(path: Path, name: str) -> ModuleType:
    """Load a plug-in by its file, as a host does."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_a_host_of_comfyui_s_nodes_runs_ours(live_server: str) -> None:
    """What ComfyUI does: reads the mappings, checks the widgets' values by INPUT_TYPES, calls FUNCTION by its name."""
    import torch

    module = loaded(EXAMPLES / "comfyui" / "__init__.py", "custom_nodes_pafu")
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    kind = module.NODE_CLASS_MAPPINGS["PafuVideo"]
    widgets = kind.INPUT_TYPES()
    values = {name: options["default"] for name, (_, options) in widgets["required"].items()}
    assert set(widgets["optional"]) == {"image"} and widgets["optional"]["image"] == ("IMAGE",)
    values |= {"seconds": 0.75, "url": live_server}
    images, fps = getattr(kind(), kind.FUNCTION)(**values)
    assert kind.RETURN_TYPES == ("IMAGE", "FLOAT") and fps == 16
    assert images.shape == (12, 128, 128, 3) and images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    begun, _ = getattr(kind(), kind.FUNCTION)(**values, image=images[-1:].flip(2))
    assert begun.shape == images.shape and not torch.equal(begun, images)


def test_the_notebook_runs_from_top_to_bottom(live_server: str, tmp_path: Path, monkeypatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PAFU_URL", live_server)
    notebook = nbformat.read(EXAMPLES / "pafu.ipynb", as_version=4)
    run = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    run.execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "test-tiny 128 128 16" in said and "completed 100" in said and said.rstrip().endswith("2.0")
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())}
    assert "image/jpeg" in kinds or "image/png" in kinds
    assert (tmp_path / "live.mp4").stat().st_size and (tmp_path / "mill.mp4").stat().st_size
    stored = nbformat.read(EXAMPLES / "pafu.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in stored.cells), "it is kept without what it printed"


@pytest.mark.filterwarnings("ignore")
def test_the_gradio_page_makes_a_video(live_server: str, decode, monkeypatch) -> None:
    pytest.importorskip("gradio", reason="no gradio here: pip install gradio")
    from gradio_client import Client

    monkeypatch.setenv("PAFU_URL", live_server)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("NO_PROXY", "127.0.0.1,localhost")
    demo = loaded(EXAMPLES / "gradio_demo.py", "gradio_demo").page()
    _, local, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        made = Client(local, verbose=False).predict("a red mill", 0.75, 3, None, api_name="/make")
    finally:
        demo.close()
    path = made["video"] if isinstance(made, dict) else made
    assert decode(Path(path).read_bytes()).pictures.shape[0] == 12
