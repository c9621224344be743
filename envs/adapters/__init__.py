"""Environments that others wrote, as Concerto's own: `gymnasium` for text games with Gymnasium's two methods,
`verifiers` for those of the package of that name."""
