"""Networks are models: layers as functions with priors.

`layers.py` has the layers (a weight is a site named by path), `fingerprint.py` and `messages.py` the two networks that read graphs
(`ppl/graphs/`). Networks written elsewhere are lifted (`modules.py`), by priors on their arrays (`priors.py`).
"""

from .fingerprint import graph_convolution, neural_fingerprint
from .layers import dense, embedding
from .messages import directed_messages
from .modules import random_module
from .priors import fan_in_normal

__all__ = ["dense", "directed_messages", "embedding", "fan_in_normal", "graph_convolution", "neural_fingerprint", "random_module"]
