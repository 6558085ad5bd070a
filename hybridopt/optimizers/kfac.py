"""Natural gradient with Kronecker-factored curvature."""

from __future__ import annotations

from hybridopt.optimizers.kronecker_step import KroneckerConfig, KroneckerStep


class KFAC(KroneckerStep):
    """K-FAC (Martens and Grosse 2015; convolutions: Grosse and Martens 2016; here also recurrent layers and cells).

    Running averages of the factors with weight 1 - min(1 - 1/k, 0.95) on the k-th batch (section 5), inverted with
    damping split between them (section 6.3). The direction is rescaled, and the last step added with the weight, so
    that the quadratic model with the exact Gauss-Newton matrix and damping l is lowest (sections 6.4 and 7; two
    Gauss-Newton products). Every 5 steps l is multiplied or divided by (19/20)^5 as the reduction ratio is above 3/4 or
    below 1/4 (section 6.5), and every 20 steps the damping of the factors goes where the model is lowest (section
    6.6). The block-diagonal variant; one damping l serves the model, and another the factors, which here is a
    multiple of the identity and not its root. Weight decay is part of the function and of the blocks' damping.

    Departing from the paper, a step that does not lower the function on its own samples is shortened until it does,
    and raises l at once; factors and model take the whole batch, or the objective's curvature batch; and the factors of
    recurrent layers are by default nearly the Kronecker product that is nearest to the block (``setting``), since the
    steps of a sequence are not independent.

    From few samples the factors lack rank. What no batch so far has seen is then held by the damping alone, and, as the
    gradient has no part there, does not move; the running averages fill the factors over the batches.

    Which parameters are in layers is seen in the first step; all others are preconditioned by an estimated diagonal of
    the Fisher matrix and named in the report. Layers used several times are one block.

    Report: ``fallback`` (names of the parameters that no layer has), ``damping``, ``split`` (damping of the factors),
    ``rescaling`` (weight of the direction), ``momentum`` (weight of the last step), ``ratio``, ``step_size``,
    ``evaluations``, ``status``, ``skipped_statistics`` (a batch whose factors were not finite).

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = KroneckerConfig
    summary = "K-FAC with exact rescaling, momentum and adaptive damping; recurrent layers too"
