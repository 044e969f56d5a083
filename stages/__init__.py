"""DVC entry points, one module a stage: open inputs, call one loop, write outputs."""
