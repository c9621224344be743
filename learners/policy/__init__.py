"""The one policy that is trained: its network, this worker's part of it, and how its weights leave for the engines."""
