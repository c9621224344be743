"""What a run tells: metrics, progress, evaluations, and the tables and pictures that are made of them."""
