"""The run configuration: its sections, the presets, and how both are loaded, overridden and checked."""
