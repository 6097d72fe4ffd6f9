"""Why knowing what matters helps: the simulation behind RecPIE's appendix B.

    python -m xrec_jax.analysis.theory --out DIR [--seed 0 --trials 50]

  data     y_k = x_k beta* + eps_k, with s of p coefficients that are not 0, S* their set       (eq. 2 to 4)
  lasso    no knowledge of S*      error of order sqrt(s log(p) / n)                            (eq. 7, 8)
  oracle   least squares on S*     error of order sqrt(s / n)                                   (eq. 9)
  EILLS    finds S* from several environments in which everything but y given x_S* differs      (eq. 5, 6)

Draws figure 3 again (errors of lasso and oracle by n and by p, beside the two rates) and the share of trials in
which EILLS and lasso find S*, into DIR/theory.png and DIR/theory.csv. Everything is `vmap` over trials.
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import flags
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from xrec_jax import cli
from xrec_jax.analysis import output
from xrec_jax.errors import UserError
from xrec_jax.runs import progress

SPARSITY, NOISE = 5, 1.0
SAMPLES = (50, 100, 200, 400, 800, 1600)  # n of figure 3's horizontal axis, at p = 200
FEATURES = (25, 50, 100, 200, 400, 800)   # p, at n = 400
ENVIRONMENTS = (1, 2, 4, 8)


def draw(key: jax.Array, n: int, p: int, s: int = SPARSITY, noise: float = NOISE
         ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [n, p] standard normal, y [n], and beta* [p], whose first s entries are 1 or -1."""
    x_key, sign_key, noise_key = jax.random.split(key, 3)
    beta = jnp.where(jnp.arange(p) < s, jax.random.rademacher(sign_key, (p,), jnp.float32), 0.0)
    x = jax.random.normal(x_key, (n, p))
    return x, x @ beta + noise * jax.random.normal(noise_key, (n,)), beta


def lasso(x: jax.Array, y: jax.Array, penalty: float, steps: int = 500) -> jax.Array:
    """argmin 1/2n |y - x beta|^2 + penalty |beta|_1 (eq. 7), by accelerated proximal gradients (Beck, Teboulle 2009)."""
    n = len(y)
    gram, moment = x.T @ x / n, x.T @ y / n
    rate = 1 / _largest_eigenvalue(gram)

    def step(carry, _):
        beta, ahead, momentum = carry
        moved = ahead - rate * (gram @ ahead - moment)
        shrunk = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - rate * penalty, 0)
        later = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        return (shrunk, shrunk + (momentum - 1) / later * (shrunk - beta), later), None

    start = jnp.zeros_like(moment)
    return jax.lax.scan(step, (start, start, jnp.float32(1)), length=steps)[0][0]


def _largest_eigenvalue(gram: jax.Array, steps: int = 50) -> jax.Array:
    """An upper bound that is nearly tight: power iteration, and five per cent."""
    def step(v, _):
        v = gram @ v
        return v / jnp.linalg.norm(v), None

    v = jax.lax.scan(step, jnp.ones(len(gram)) / jnp.sqrt(len(gram)), length=steps)[0]
    return 1.05 * v @ gram @ v


def least_squares(x: jax.Array, y: jax.Array, support: jax.Array) -> jax.Array:
    """Ordinary least squares on the features of `support` bool [p]; 0 elsewhere (eq. 9)."""
    return _solved(x.T @ x / len(y), x.T @ y / len(y), support)


def _solved(gram: jax.Array, moment: jax.Array, support: jax.Array) -> jax.Array:
    inside = support[:, None] & support[None]
    return jnp.linalg.solve(jnp.where(inside, gram, jnp.eye(len(gram))), jnp.where(support, moment, 0.0))


@functools.partial(jax.jit, static_argnames=('n', 'p', 'trials'))
def errors(key: jax.Array, n: int, p: int, trials: int) -> tuple[jax.Array, jax.Array]:
    """|beta - beta*|_2 of lasso, at the penalty of the theory sqrt(2 log(p) / n), and of the oracle, [trials] each."""

    def trial(key):
        x, y, beta = draw(key, n, p)
        found = lasso(x, y, NOISE * jnp.sqrt(2 * jnp.log(p) / n))
        known = least_squares(x, y, beta != 0)
        return jnp.linalg.norm(found - beta), jnp.linalg.norm(known - beta)

    return jax.lax.map(trial, jax.random.split(key, trials))


# ------------------------------------------------------------------------------------ environments


def draw_environments(key: jax.Array, n: int, p: int, environments: int, s: int = 3
                      ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [E, n, p], y [E, n] and S* bool [p] of data in which half of the other features are effects of y.

    y = x_S* beta* + eps in every environment; how strongly y moves its effects differs from one to the next, so
    that a regression on all features uses them and is wrong elsewhere (Fan et al. 2023, section 1).
    """
    keys = jax.random.split(key, 4)
    support = jnp.arange(p) < s
    effect = (jnp.arange(p) >= s) & (jnp.arange(p) < s + (p - s) // 2)
    x = jax.random.normal(keys[0], (environments, n, p))
    y = x[..., :s].sum(-1) + jax.random.normal(keys[1], (environments, n))
    strength = jax.random.uniform(keys[2], (environments, 1, p), minval=0.2, maxval=1.5)
    return jnp.where(effect, strength * y[..., None] + x, x), y, support


def eills(x: jax.Array, y: jax.Array, gamma: float = 20.0, penalty: float = 0.02) -> tuple[jax.Array, jax.Array]:
    """beta [p] and its support bool [p]: eq. 5, over all 2^p supports.

    R(beta)  mean over environments of the squared error
    J(beta)  sum over the support of the squared gradients of each environment's own error: what truly causes y is
             the best predictor in every environment, so its gradients vanish in all of them at once
    """
    n, p = x.shape[1:]
    gram = jnp.einsum('eni,enj->eij', x, x) / n
    moment = jnp.einsum('eni,en->ei', x, y) / n
    supports = (jnp.arange(2**p)[:, None] >> jnp.arange(p)) % 2 == 1

    def candidate(support):
        # On a given support eq. 5 is quadratic: its minimum solves a linear system.
        rows = support.astype(gram.dtype)
        square = gram.mean(0) + gamma * jnp.einsum('eij,i,eik->jk', gram, rows, gram) / len(gram)
        linear = moment.mean(0) + gamma * jnp.einsum('eij,i,ei->j', gram, rows, moment) / len(gram)
        beta = _solved(square, linear, support)
        residual = jnp.mean((y - x @ beta)**2)
        gradients = jnp.einsum('eij,j->ei', gram, beta) - moment
        return residual + gamma * jnp.mean((gradients**2) @ rows) + penalty * rows.sum(), beta

    values, betas = jax.lax.map(candidate, supports, batch_size=64)
    best = jnp.argmin(values)
    return betas[best], supports[best]


@functools.partial(jax.jit, static_argnames=('n', 'p', 'environments', 'trials'))
def found_shares(key: jax.Array, n: int, p: int, environments: int, trials: int) -> tuple[jax.Array, jax.Array]:
    """Share of trials in which EILLS finds S* exactly, and in which lasso on the pooled data does, scalars."""

    def trial(key):
        x, y, support = draw_environments(key, n, p, environments)
        pooled = lasso(x.reshape(-1, p), y.reshape(-1), jnp.sqrt(2 * jnp.log(p) / (n * environments)))
        return (eills(x, y)[1] == support).all(), ((jnp.abs(pooled) > 1e-3) == support).all()

    ours, pooled = jax.lax.map(trial, jax.random.split(key, trials))
    return ours.mean(), pooled.mean()


# ----------------------------------------------------------------------------------------- command


def run(out: pathlib.Path, seed: int, trials: int) -> list[dict[str, float | str]]:
    """Computes all points, writes the table and the figure, returns the table's rows."""
    if trials < 2:
        raise UserError(f'--trials={trials}: a spread needs at least 2.')
    key, rows = jax.random.key(seed), []
    for part, points in (('by n', [(n, 200) for n in SAMPLES]), ('by p', [(400, p) for p in FEATURES])):
        for n, p in points:
            unknown, known = map(np.asarray, errors(jax.random.fold_in(key, n * 10_000 + p), n, p, trials))
            figures = {'lasso': unknown.mean(), 'lasso std': unknown.std(ddof=1),
                       'oracle': known.mean(), 'oracle std': known.std(ddof=1),
                       'rate of lasso': np.sqrt(SPARSITY * np.log(p) / n), 'rate of oracle': np.sqrt(SPARSITY / n)}
            rows.append({'part': part, 'n': n, 'p': p, **{name: float(value) for name, value in figures.items()}})
    for environments in ENVIRONMENTS:
        ours, pooled = found_shares(jax.random.fold_in(key, environments), 400, 8, environments, trials)
        rows.append({'part': 'environments', 'n': 400, 'p': 8, 'environments': environments,
                     'EILLS finds S*': float(ours), 'lasso finds S*': float(pooled)})
    output.write(out, 'theory', rows, _draw(rows))
    return rows


def _draw(rows: Sequence[dict]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(13, 4), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    for axes, part, x in ((left, 'by n', 'n'), (middle, 'by p', 'p')):
        points = [row for row in rows if row['part'] == part]
        at = [row[x] for row in points]
        for name, colour in (('lasso', output.COLOURS[1]), ('oracle', output.COLOURS[0])):
            axes.errorbar(at, [row[name] for row in points], [row[f'{name} std'] for row in points], color=colour,
                          marker='o', capsize=3, label={'lasso': 'lasso, S* unknown', 'oracle': 'least squares on S*'}[name])
            scale = points[-1][name] / points[-1][f'rate of {name}']
            axes.plot(at, [scale * row[f'rate of {name}'] for row in points], color=colour, linestyle=':',
                      label={'lasso': '∝ √(s log p / n)', 'oracle': '∝ √(s / n)'}[name])
        axes.set(xscale='log', yscale='log', xticks=at, xticklabels=at, xlabel={'n': 'samples n (p = 200)', 'p': 'features p (n = 400)'}[x],
                 ylabel='|β − β*|₂')
        axes.minorticks_off()
        axes.legend(fontsize='small')
    points = [row for row in rows if row['part'] == 'environments']
    at = [row['environments'] for row in points]
    right.plot(at, [row['EILLS finds S*'] for row in points], color=output.COLOURS[0], marker='o', label='EILLS')
    right.plot(at, [row['lasso finds S*'] for row in points], color=output.COLOURS[1], marker='o', label='lasso, pooled')
    right.set(xlabel='environments', ylabel='share of trials that find S*', ylim=(-0.05, 1.05), xticks=at)
    right.legend(fontsize='small')
    return figure


def main(argv: Sequence[str]) -> None:
    del argv
    rows = run(pathlib.Path(flags.FLAGS.out), flags.FLAGS.seed, flags.FLAGS.trials)
    for part in ('by n', 'by p', 'environments'):
        progress.CONSOLE.print(output.table([row for row in rows if row['part'] == part], part, ('part',)))


if __name__ == '__main__':
    flags.DEFINE_string('out', None, 'Folder for theory.png and theory.csv.', required=True)
    flags.DEFINE_integer('seed', 0, 'Of the draws.')
    flags.DEFINE_integer('trials', 50, 'Data sets drawn for each point.')
    cli.run(main)
