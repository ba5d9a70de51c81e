"""The training loop, and whole runs around it."""
