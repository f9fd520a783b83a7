import pytest


@pytest.fixture(autouse=True)
def one_torch_thread(request: pytest.FixtureRequest) -> None:
    """As the worker on two cores; more threads than free cores cost several times the time (worker/engine/load.py)."""
    if request.node.get_closest_marker("models"):
        import torch

        torch.set_num_threads(1)
