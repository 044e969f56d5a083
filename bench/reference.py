"""The method as plain research code has it: fp32, NCHW, gradients for the teacher too, the batch
rebuilt image by image, the loss read back at every step, two backward passes for promotion.

What the engine is compared with. Nothing else imports this.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def synthesis_steps(
    teacher: nn.Module, images: Tensor, labels: Tensor, *, gamma: float, hard_weight: float
) -> Iterator[None]:
    """Optimise a batch of images (N, C, H, W); one step for each `next`."""
    inputs: list[Tensor] = []
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    pixels = images.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([pixels], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=50, min_lr=1e-4)
    while True:
        inputs.clear()
        batch = torch.stack([pixels[i] for i in range(len(pixels))])
        logits = teacher(batch)
        bns = torch.zeros(())
        for norm, x in zip(norms, inputs, strict=True):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            bns = bns + F.mse_loss(mean, norm.running_mean) + F.mse_loss(var, norm.running_var)
        p = logits.softmax(1)[torch.arange(len(labels)), labels]
        ce = F.cross_entropy(logits, labels, reduction="none")
        loss = bns / len(norms) + hard_weight * ((1 - p) ** gamma * ce).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(loss.item())
        yield


def finetuning_steps(
    student: nn.Module, teacher: nn.Module, images: Tensor, blocks: list[str], batch_size: int
) -> Iterator[None]:
    """Fine-tune with promotion and alignment; one step for each `next`."""
    features: dict[str, Tensor] = {}

    def watch(network: nn.Module, name: str, block: str) -> None:
        def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            features[name + block] = output
            return output.clone()

        network.get_submodule(block).register_forward_hook(keep)

    for block in blocks:
        watch(student, "q", block)
        watch(teacher, "f", block)

    def loss_of(x: Tensor) -> Tensor:
        q, f = student(x), teacher(x)
        loss = (
            20 * 400 * F.kl_div((q / 20).log_softmax(1), (f / 20).softmax(1), reduction="batchmean")
        )
        for block in blocks:
            a, b = (F.normalize(features[name + block].pow(2).mean((2, 3)), dim=1) for name in "qf")
            loss = loss + 1000 * (a - b).pow(2).mean()
        return loss

    optimizer = torch.optim.SGD(
        student.parameters(), lr=1e-5, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    while True:
        index = torch.randint(len(images), (batch_size,))
        x = torch.stack([images[int(i)] for i in index]).requires_grad_(True)
        loss_of(x).backward()
        assert x.grad is not None
        harder = (x + 0.01 * x.grad.sign()).detach()
        optimizer.zero_grad()
        loss = loss_of(x.detach()) + loss_of(harder)
        loss.backward()
        optimizer.step()
        loss.item()
        yield
