"""The built-in sample set: anime avatars drawn by rule."""
