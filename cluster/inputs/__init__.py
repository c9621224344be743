"""What a run is given: models, demonstrations, the routed corpus, and the reward channels that there are."""
