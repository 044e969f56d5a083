"""How the heavy functions run: device, precision, compilation, memory, processes, determinism."""
