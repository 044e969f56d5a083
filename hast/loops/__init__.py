"""The loops: what is computed, step by step, on networks and tensors in memory.

A loop takes its parameter section, yields one record a step and touches no file. Records hold
detached tensors on the device; whoever needs a number pays for reading it.
"""
