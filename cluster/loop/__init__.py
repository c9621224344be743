"""The control loop: what is played, trained, published and kept, and when. Knows neither Ray nor vLLM."""
