"""Learning curves to tell of."""

import math

NAN = math.nan
FALLING = [1.0, 0.5, 0.25, 0.125]

# The curves of the hand-written diagnosis that `diagnosis_markdown` is to say from numbers alone.
COLORIZER_TRAIN = [0.1159, 0.098, 0.086, 0.079, 0.0755, 0.073, 0.0708, 0.0685, 0.0665, 0.065]
COLORIZER_TRAIN += [0.0648, 0.0646, 0.0645, 0.0643, 0.0642]
COLORIZER_VAL = [0.118, 0.1, 0.088, 0.081, 0.0782, 0.0755, 0.073, 0.0712, 0.0698, 0.0688]
COLORIZER_VAL += [0.069, 0.0692, 0.0694, 0.0697, 0.07]
