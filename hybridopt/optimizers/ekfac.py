"""K-FAC with corrected eigenvalues."""

from __future__ import annotations

from hybridopt.optimizers.kronecker_step import KroneckerConfig, KroneckerStep


class EKFAC(KroneckerStep):
    """EK-FAC (George et al. 2018): the second moments of the gradients in the eigenvectors of K-FAC's factors.

    The eigenvectors are taken every `refresh_every` steps, the moments averaged over every batch. With new eigenvectors
    the moments become the diagonal of what the old ones described, and the first ones are K-FAC's eigenvalues. The
    damping is added to them. Dampings, rescaling and momentum are as in `KFAC`; the paper has a fixed damping and rate.

    Report: as `KFAC`.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.
    """

    Config = KroneckerConfig
    corrected = True
    summary = "K-FAC with corrected eigenvalues (George et al. 2018)"
