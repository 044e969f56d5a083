"""The method as pure functions: tensors and plain numbers in, tensors out.

Shape legend used below: N images, C channels, H x W pixels, K classes, L BatchNorm layers.
Nothing here holds state, draws from a global random generator or touches a file.
"""
