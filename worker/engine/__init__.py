"""How steps run: what they may ask of the world, and what does it."""
