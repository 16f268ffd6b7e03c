import os

# The tests' tensors are tiny: a second thread would only wait for the first, and long on a busy machine. Set before
# torch is imported; processes that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
