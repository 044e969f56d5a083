"""Networks: where they come from, what is tapped inside them, and how they become quantized."""
