"""A toy task, attention mechanisms trained on it, and what their patterns and residual streams look like."""
