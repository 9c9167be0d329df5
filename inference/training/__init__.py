"""Training: a mode of a model's joint density by minibatches, many times over, and what the modes predict.

`train.py` is what a user calls, `rows.py` takes batches, `descent.py` is the compiled step. `fit.py` is the result; it predicts
(`prediction.py`), has a last layer in closed form (`last_layer.py`) and attributes predictions to nodes (`attribution.py`).
"""

from .attribution import Attribution
from .fit import Fit
from .last_layer import LastLayer
from .prediction import Prediction
from .train import train

__all__ = ["Attribution", "Fit", "LastLayer", "Prediction", "train"]
