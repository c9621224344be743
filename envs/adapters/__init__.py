"""Environments that others wrote, as Concerto's own: `gymnasium` for text games with Gymnasium's two methods."""
