"""Drawing codes from the priors, and editing by codes.

How to draw by default, here and in all commands, notebooks and figures: chosen on held-out images by distance,
precision, recall and copies together. A lower top-p makes tidier avatars, but fewer kinds of them and more copies.
"""

TEMPERATURE, TOP_P, PASSES = 1.05, 0.96, 64
