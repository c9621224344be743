"""From several named rewards to one advantage for each rollout: channels, scalarisers, and the Conductor's network."""
