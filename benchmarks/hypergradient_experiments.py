"""What hypergradients are for: whether schedules, training sets, weights of examples and penalties are found by following them.

    python3 dev.py bench hypergradient_experiments [row ...]

Rows; all of them without arguments:

    schedules    800 step sizes, 8 decays and 8 initial scales of a network, by Adam from a poor start
    images       a training set of ten images, from blank
    attribution  what leaving out one example does to the test loss: predicted, and trained again; groups of 1 % on a network
    mislabelled  where wrongly labelled digits stand when examples are sorted by the harm they do
    penalties    a penalty for each of 7,840 weights
    smoothness   the probe against step size; whether the validation loss follows its gradient

Images: the 10,000 test images of MNIST from shared/data beside the checkout; 8,000 train, 1,000 validate, 1,000 test, in an order of a
fixed seed. Numbers, not times.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import announce
from _hypergradient import (
    again,
    blank,
    cross_entropy,
    layers,
    mean_loss,
    network,
    quietly,
    random_start,
    size_of,
    softmax,
    split,
    weighted,
    wide_start,
)

SIZES = (784, 50, 50, 50, 10)

# --- schedules


def schedules(train, _valid, _test, steps=100, meta_steps=50, rate=0.04):
    """Published shape: step sizes (100, 8), momenta and initial scales; meta-optimiser Adam; a fresh seed for each meta-step."""
    x, y = (jnp.asarray(a) for a in train)

    def train_loss(params, hypers, step):
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(1), hypers["seed"] * steps + step), (200,), 0, len(y))
        return cross_entropy(network(params, x[rows]), y[rows]).mean()

    outer = mean_loss(network, x, y)

    def natural(meta, seed):
        """What training reads, from numbers without bounds."""
        return {
            "step_size": jax.tree.map(jnp.exp, meta["log_step_size"]),
            "decay": jax.tree.map(jax.nn.sigmoid, meta["logit_decay"]),
            "scale": jax.tree.map(jnp.exp, meta["log_scale"]),
            "seed": seed,
        }

    start = random_start(SIZES)
    meta = {
        "log_step_size": layers(SIZES, lambda _: jnp.full(steps, -1.0)),
        "logit_decay": layers(SIZES, lambda _: jnp.float32(0.0)),
        "log_scale": layers(SIZES, lambda _: jnp.float32(-3.0)),
    }
    adam = optax.adam(rate)
    state = adam.init(meta)
    print("meta-step  training loss  |gradient|  smoothness   exact")
    losses = []
    for k in range(meta_steps + 1):
        hypers, pull = jax.vjp(lambda m, k=k: natural(m, jnp.int32(k)), meta)
        found = quietly(train_loss, outer, start, hypers, num_steps=steps, strategy="reversible")
        (gradient,) = pull(found.gradient)
        losses.append(found.value)
        print(f"{k:9d}  {found.value:13.4f}  {size_of(gradient):10.3f}  {found.smoothness:10.3f}   {found.exact}", flush=True)
        change, state = adam.update(gradient, state)
        meta = optax.apply_updates(meta, change)
    print(
        f"loss fell by {1 - losses[20] / losses[0]:.0%} in 20 meta-steps, {1 - losses[-1] / losses[0]:.0%} in {meta_steps} (bar 25 % in 20)"
    )
    print(f"{found.strategy}, {found.bytes / 1e6:.1f} MB, {found.seconds:.1f} s each, {found.compile_seconds:.0f} s to compile")
    for number, layer in enumerate(meta["log_step_size"]):
        fifths = "  ".join(f"{float(jnp.exp(part.mean())):.2f}" for part in jnp.split(layer["w"], 5))
        scale = float(jnp.exp(meta["log_scale"][number]["w"])) * SIZES[number] ** 0.5
        print(f"weights of layer {number}: step size in each fifth of the run {fifths}; initial scale {scale:.2f} / sqrt(inputs)")


# --- a training set


def images(_train, valid, test, steps=20, meta_steps=40):
    """Ten images, one for each label, from blank: logistic regression from zero, validated on 1,000 images, tested on 1,000 others."""
    test_x, test_y = test
    labels = jnp.arange(10)

    def train_loss(params, hypers, step):
        return cross_entropy(softmax(params, hypers["images"]), labels).mean()

    valid_loss = mean_loss(softmax, *valid)

    for name, outer in {"descent, step size 1": optax.sgd(1.0), "Adam, step size 0.1": optax.adam(0.1)}.items():
        learned = jnp.zeros((10, 784))
        state = outer.init(learned)
        for k in range(meta_steps + 1):
            hypers = {"step_size": jnp.float32(1.0), "decay": jnp.float32(0.9), "images": learned}
            found = quietly(train_loss, valid_loss, blank(), hypers, num_steps=steps, strategy="reversible")
            right = float((np.asarray(softmax(found.params, test_x)).argmax(1) == test_y).mean())
            if k % 10 == 0:
                print(
                    f"{name}: meta-step {k:2d}, validation loss {found.value:.3f}, {right:.1%} of the test images right, "
                    f"smoothness {found.smoothness:.3f}",
                    flush=True,
                )
            change, state = outer.update(found.gradient["images"], state)
            learned = optax.apply_updates(learned, change)
    print("(aim 60 %)")


# --- weights of examples


def left_out(model, params, x, y, test, step_size, steps, groups, influential=0, penalty=0.0):
    """Predicted and actual changes of the test loss without each group, then without each of the examples of largest influence."""

    test_loss = mean_loss(model, *test)
    train_loss, ones = weighted(model, x, y, penalty=penalty), jnp.ones(len(y), x.dtype)
    decay = 58983 / 2**16  # 0.9, a number that `hypergradient` does not round
    hypers = {"step_size": jnp.asarray(step_size, x.dtype), "decay": jnp.asarray(decay, x.dtype), "weights": ones}
    found = quietly(train_loss, test_loss, params, hypers, num_steps=steps, strategy="reversible")
    influence = np.asarray(found.gradient["weights"])
    if influential:
        groups = np.concatenate([groups, np.argsort(-np.abs(influence))[:influential, None]])
    predicted = -influence[groups].sum(1)
    without = np.ones((len(groups) + 1, len(y)), x.dtype)
    without[np.arange(len(groups))[:, None], groups] = 0  # the last is with all
    losses = np.asarray(again(train_loss, test_loss, params, step_size, decay, steps)(jnp.asarray(without)))
    return found, predicted, losses[:-1] - losses[-1]


def attribution(train, _valid, test, number=1000):
    """Full batches of 1,000 images, in float64: what is predicted is small."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        x, y = train[0][:number].astype(float), train[1][:number]
        test = test[0].astype(float), test[1]
        one = rng.choice(number, 40, replace=False)[:, None]
        ten = np.stack([rng.choice(number, number // 100, replace=False) for _ in range(40)])
        for penalty, steps in ((0.0, 50), (0.0, 200), (0.03, 200)):
            found, predicted, actual = left_out(softmax, blank(), x, y, test, 0.3, steps, one, 40, penalty)
            r_random, r_large = (np.corrcoef(predicted[k], actual[k])[0, 1] for k in (slice(40), slice(40, None)))
            slope = np.polyfit(predicted[:40], actual[:40], 1)[0]
            print(
                f"logistic, penalty {penalty:4.2f}, {steps:3d} steps: r {r_random:.4f} of 40 random examples (slope {slope:.2f}), "
                f"{r_large:.4f} of the 40 of largest influence (bar 0.95); smoothness {found.smoothness:.3f}",
                flush=True,
            )
        start = wide_start((784, 20, 10), 3, x.dtype)
        for steps in (100, 300):
            found, predicted, actual = left_out(network, start, x, y, test, 0.3, steps, ten)
            print(
                f"784-20-10, {steps} steps: r {np.corrcoef(predicted, actual)[0, 1]:.4f} of 40 random groups of {number // 100} (aim 0.8); "
                f"smoothness {found.smoothness:.3f}",
                flush=True,
            )


def mislabelled(train, valid, _test, steps=400, share=0.05):
    """5 % of 8,000 labels are wrong. Beside the harm to the validation loss: the example's own loss after training, without a gradient."""
    rng = np.random.default_rng(4)
    x, y = jnp.asarray(train[0]), train[1].copy()
    wrong = rng.choice(len(y), int(share * len(y)), replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, 10, len(wrong))) % 10
    y = jnp.asarray(y)
    start = wide_start((784, 50, 10), 4)
    for name, model, params in (("logistic", softmax, blank()), ("784-50-10", network, start)):
        valid_loss = mean_loss(model, *valid)
        hypers = {"step_size": jnp.float32(0.1), "decay": jnp.float32(0.9), "weights": jnp.ones(len(y))}
        found = quietly(weighted(model, x, y, 200), valid_loss, params, hypers, num_steps=steps, strategy="reversible")
        own = np.asarray(cross_entropy(model(found.params, x), y))
        worst = {"harm": np.asarray(found.gradient["weights"]), "own loss": own}
        for key, score in worst.items():
            among = np.isin(np.argsort(-score)[: len(y) // 10], wrong).sum() / len(wrong)
            print(f"{name}, {steps} steps of 200: {among:.0%} of the mislabelled in the worst tenth by {key} (bar 60 % by harm)")
        print(f"    validation loss {found.value:.3f}, smoothness {found.smoothness:.3f}", flush=True)


# --- penalties


def penalties(train, valid, test, steps=50, meta_steps=20):
    """Published shape: logistic regression, a penalty for each weight, 50 steps of 200 images. 4,000 train and
    5,000 validate: 7,840 numbers overfit 1,000 images."""
    x, y = (jnp.asarray(a[:4000]) for a in train)
    valid_x, valid_y = (np.concatenate([a[4000:], b]) for a, b in zip(train, valid, strict=True))

    def train_loss(params, hypers, step):
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(5), step), (200,), 0, len(y))
        return cross_entropy(softmax(params, x[rows]), y[rows]).mean() + 0.5 * jnp.sum(hypers["penalty"] * params["w"] ** 2)

    valid_loss, test_loss = mean_loss(softmax, valid_x, valid_y), mean_loss(softmax, *test)

    def natural(log_penalty):
        return {"step_size": jnp.float32(1.0), "decay": jnp.float32(0.9), "penalty": jnp.exp(log_penalty)}

    log_penalty = jnp.full((784, 10), -6.0)
    adam = optax.adam(0.3)
    state = adam.init(log_penalty)
    for k in range(meta_steps + 1):
        hypers, pull = jax.vjp(natural, log_penalty)
        found = quietly(train_loss, valid_loss, blank(), hypers, num_steps=steps, strategy="reversible")
        if k % 5 == 0:
            losses = f"validation loss {found.value:.4f}, test loss {test_loss(found.params):.4f}"
            print(f"meta-step {k:2d}: {losses}, smoothness {found.smoothness:.3f}", flush=True)
        change, state = adam.update(pull(found.gradient)[0], state)
        log_penalty = optax.apply_updates(log_penalty, change)


# --- smoothness


def smoothness(train, valid, _test):
    """Published shape: 784-200-50-10, 1,000 images, batches of 250, 50 steps, decay 0.9, over step sizes."""
    x, y = (jnp.asarray(a[:1000]) for a in train)
    sizes, steps = (784, 200, 50, 10), 50
    start = wide_start(sizes, 6)

    def train_loss(params, hypers, step):
        rows = (step % 4) * 250 + jnp.arange(250)
        return cross_entropy(network(params, x[rows]), y[rows]).mean()

    valid_loss = mean_loss(network, *valid)

    def hypers_at(step_size):
        return {"step_size": layers(sizes, lambda _: jnp.full(steps, step_size)), "decay": jnp.float32(0.9)}

    def value(hypers):
        return quietly(train_loss, valid_loss, start, hypers, num_steps=steps, strategy="reversible", probe=False).value

    print("log step  step size  validation loss  smoothness  change after 1 % along -gradient: predicted, actual; after 2 %")
    for log_step in np.arange(-1, 2.51, 0.25):
        step_size = float(np.exp(log_step))
        hypers = hypers_at(step_size)
        found = quietly(train_loss, valid_loss, start, hypers, num_steps=steps, strategy="reversible", on_failure="nan")
        gradient = [np.asarray(g, float) for g in jax.tree.leaves(found.gradient["step_size"])]
        unit = [-g / max(np.abs(g).max() for g in gradient) for g in gradient]
        slope = step_size * sum(np.vdot(g, u) for g, u in zip(gradient, unit, strict=True))
        changes = []
        for length in (0.01, 0.02):
            moved = [jnp.asarray(step_size * (1 + length * u), jnp.float32) for u in unit]
            moved = jax.tree.unflatten(jax.tree.structure(hypers["step_size"]), moved)
            changes += [length * slope, value(hypers | {"step_size": moved}) - found.value if np.isfinite(slope) else np.nan]
        shown = "  ".join(f"{c:10.2e}" for c in changes)
        print(f"{log_step:8.2f}  {step_size:9.3f}  {found.value:15.4f}  {found.smoothness:10.3f}  {shown}", flush=True)


ROWS = {
    "schedules": schedules,
    "images": images,
    "attribution": attribution,
    "mislabelled": mislabelled,
    "penalties": penalties,
    "smoothness": smoothness,
}


def main(names):
    announce("numbers, not times")
    data = split()
    for name in names or ROWS:
        print(f"--- {name}")
        ROWS[name](*data)
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
