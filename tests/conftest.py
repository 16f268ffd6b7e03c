import gc
import os

import pytest

# The tests' tensors are tiny: a second thread would only wait for the first, and long on a busy machine. Set before
# torch is imported; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Spare the collector what all modules have imported, which stays: it walked through it at every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates show pictures of a tenth of the pixels: what spoils a conversion shows at any size.

    As the real ones, an even size and an odd one. That a conversion passes at the real ones is shown in
    test_converters_verify.py.
    """
    monkeypatch.setattr("converters.verify._PICTURES", {"china.jpg": (64, 64), "flower.jpg": (61, 83)})
