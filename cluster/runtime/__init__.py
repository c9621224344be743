"""The loop's ports on Ray: the session, the placement of actors, and rollout actors and learner workers seen as one."""
