"""Train the two small models of handwritten digits whose weights lie beside this script.

    pip install "telepatch[train]"
    python models/train_digits.py

Writes ``vit-digits/`` (a transformers ViT and its image processor), ``mlp-digits/`` (a perceptron) and
``digits.safetensors`` (the 360 held-out images, for tests and examples). Takes about a minute on one CPU core. It needs
scikit-learn for the digits, beside what a worker needs; serving the models does not.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from telepatch_worker.perceptron import Perceptron

HERE = Path(__file__).parent
HELD_OUT = 360
SIZES = (64, 48, 32, 10)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images, uint8 (n, 1, 8, 8), and what they show, int64 (n,), in an order that is always the same."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images)[order, None]
    return (images * 255 / 16).round().to(torch.uint8), torch.from_numpy(data.target)[order].long()


def trained(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float) -> None:
    """Train a model whose output, or its ``logits``, are scores of the ten digits."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(scores(model, images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a model says of images."""
    found = model(images)
    return found if isinstance(found, torch.Tensor) else found.logits


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Which part of the images it recognises."""
    with torch.no_grad():
        return float((scores(model.eval(), images).argmax(-1) == labels).float().mean())


def train_vit(images: torch.Tensor, labels: torch.Tensor) -> None:
    """The vision transformer: 17 positions (the class token, then 4 by 4 patches) of width 32, four blocks."""
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            hidden_dropout_prob=0.0,
            num_labels=10,
        )
    )
    pixels = (images.float() / 255 - 0.5) / 0.5
    trained(model, pixels[HELD_OUT:], labels[HELD_OUT:], 60, 3e-3)
    print(f"vit-digits: {accuracy(model, pixels[:HELD_OUT], labels[:HELD_OUT]):.1%} of the held-out images")
    model.save_pretrained(HERE / "vit-digits")
    processor.save_pretrained(HERE / "vit-digits")


def train_mlp(images: torch.Tensor, labels: torch.Tensor) -> None:
    """The perceptron, over the 64 pixels of an image, 0 to 1."""
    model = Perceptron(SIZES)
    pixels = images.float().flatten(1) / 255
    trained(model, pixels[HELD_OUT:], labels[HELD_OUT:], 40, 5e-3)
    print(f"mlp-digits: {accuracy(model, pixels[:HELD_OUT], labels[:HELD_OUT]):.1%} of the held-out images")
    (HERE / "mlp-digits").mkdir(exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, HERE / "mlp-digits" / "model.safetensors")


def main() -> None:
    """Train and write everything."""
    torch.manual_seed(0)
    images, labels = digits()
    save_file({"images": images[:HELD_OUT], "labels": labels[:HELD_OUT]}, HERE / "digits.safetensors")
    train_vit(images, labels)
    train_mlp(images, labels)


if __name__ == "__main__":
    main()
