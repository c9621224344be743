"""The commands of `concerto`, a module each; `cluster.cli` imports one when it is called."""
