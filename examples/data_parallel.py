"""Training in several processes: torchrun --nproc-per-node=2 examples/data_parallel.py (docs/data_parallel.md)."""

import os

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn

import hybridopt as ho


def main() -> None:
    shared = "WORLD_SIZE" in os.environ  # set by torchrun; `python examples/data_parallel.py` is one process without it
    if shared:
        distributed.init_process_group("gloo")  # "nccl" with the model and the data on a GPU each
    rank, size = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)

    for name, options, steps, batch in (("newton_cg", {}, 5, len(labels)), ("adam", {"lr": 3e-3}, 50, 256)):
        torch.manual_seed(0)  # the same start in every process
        model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        optimizer = ho.create(name, model.parameters(), **options)
        order = torch.Generator().manual_seed(1)
        objective = None
        for _ in range(steps):
            rows = torch.randperm(len(labels), generator=order)[:batch][rank::size]  # this process's part of the batch
            if objective is None:
                objective = ho.Objective(model, nn.functional.cross_entropy, images[rows], labels[rows])
                objective = objective.in_data_parallel() if shared else objective
            else:
                objective = objective.with_batch(images[rows], labels[rows])
            loss = optimizer.step(objective)
        if shared:
            objective.check_replicas()
        if rank == 0:
            epochs = objective.ledger.gradient_equivalents(len(labels))
            print(f"{name}: loss {loss:.4f} after {steps} steps, {epochs:.1f} gradients of all samples")  # noqa: T201
    if shared:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
