"""Is a function affine in one of its arguments, and if so, what are its matrix and offset?

    f(x, z) = M(z) x + o(z)      for all x

`affine_in` answers from the function's jaxpr, by a proof (`proof`): it may say no to a function that is affine, never yes to one
that is not. The matrix comes as one block per leaf of x, kept sparse where a gather makes it so (`blocks`). M and o may depend on
the other arguments z; the answer says on which, and gives both as functions of them.

    >>> import jax.numpy as jnp
    >>> X, c = jnp.ones((4, 2)), jnp.array([0, 0, 1, 2])
    >>> predictor = lambda params, tau: params["alpha"] + tau * params["z"][c] + X @ params["beta"]
    >>> params = {"alpha": jnp.zeros(()), "z": jnp.zeros(9), "beta": jnp.zeros(2)}
    >>> answer = affine_in(predictor, params, 1.5)
    >>> answer.matrix["z"].index[:, 0].tolist(), answer.matrix["beta"].array.shape
    ([0, 0, 1, 2], (4, 2))
    >>> answer.depends_on.blocks["z"], answer.depends_on.blocks["beta"]
    (frozenset({Input(argnum=1, path='')}), frozenset())
    >>> print(why_not_affine(lambda x: jnp.exp(x), 1.0).reason)
    is not affine, or not known to be

Sharp edges. The matrix is that of the *value*: a custom derivative rule that disagrees with its function is not consulted. `apply`
never forms the matrix; reading `matrix` does, once. A conversion between float types counts as affine if it keeps float32's digits.
"""

from .answer import Affine, Dependence, Input, NotAffine
from .blocks import ContractBlock, DenseBlock, GatherBlock
from .decide import affine_in, why_not_affine

__all__ = [
    "Affine",
    "ContractBlock",
    "DenseBlock",
    "Dependence",
    "GatherBlock",
    "Input",
    "NotAffine",
    "affine_in",
    "why_not_affine",
]
