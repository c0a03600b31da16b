"""The models: a registry by name. Each is a function of a width, so that families can widen it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from sift_graph.train.models.gpt import GPT
from sift_graph.train.models.mlp import MLP
from sift_graph.train.models.mobilenet import MobileNetV2
from sift_graph.train.models.mobilevit import MobileViT
from sift_graph.train.models.resnet import ResNet
from sift_graph.train.models.vgg import VGG
from sift_graph.train.models.vit import ViT

__all__ = ["GPT", "MLP", "MODELS", "VGG", "MobileNetV2", "MobileViT", "ModelSource", "ResNet", "ViT"]


@dataclass(frozen=True)
class ModelSource:
    """One model, before it is built.

    Attributes
    ----------
    build : callable
        ``build(width, shape, classes, depths) -> nn.Module``; each part of the model grows with the width. Those of
        `options` are keywords.
    width : int
        Unless one is chosen.
    depths : tuple of int
        Unless they are chosen; no more may be chosen than `most_depths`.
    reads : {"images", "tokens"}
    heads : int
        Of attention, unless another number is chosen; 0 for a model without.
    has_dropout : bool
        Whether it takes a share of dropout.
    most_depths : int
        0 for any number.
    size : int
        Height and width of the images, or length of the stretches of tokens, that it is meant for.
    """

    build: Callable[..., nn.Module]
    width: int
    depths: tuple[int, ...]
    reads: Literal["images", "tokens"] = "images"
    heads: int = 0
    has_dropout: bool = False
    most_depths: int = 0
    size: int = 32

    def make(
        self,
        width: int,
        shape: tuple[int, ...],
        classes: int,
        depths: tuple[int, ...] = (),
        *,
        heads: int = 0,
        dropout: float = 0.0,
    ) -> nn.Module:
        """Build the model.

        Parameters
        ----------
        width : int
        shape : tuple of int
            Of one input.
        classes : int
        depths : tuple of int
            Empty for the model's own.
        heads : int
            0 for the model's own.
        dropout : float

        Returns
        -------
        nn.Module
        """
        options: dict[str, float] = {}
        if self.heads:
            options["heads"] = heads or self.heads
        if self.has_dropout:
            options["dropout"] = dropout
        return self.build(width, shape, classes, depths or self.depths, **options)


R18, R34, R50 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
VGG16 = (2, 2, 3, 3, 3)
imagenet_resnet = partial(ResNet, stem="imagenet")
transformer = partial(ModelSource, has_dropout=True)
of_imagenet = partial(ModelSource, size=224)

MODELS: dict[str, ModelSource] = {
    # Wide enough that at 0.9 its first layer, dense and 3.2 times as wide, does not eat up the budget.
    "mlp": ModelSource(MLP, 128, (3,), size=8),
    "resnet": ModelSource(ResNet, 8, (1, 1, 1)),
    "resnet18": ModelSource(ResNet, 64, R18),
    "resnet34": ModelSource(ResNet, 64, R34),
    "resnet18_imagenet": of_imagenet(imagenet_resnet, 64, R18),
    "resnet34_imagenet": of_imagenet(imagenet_resnet, 64, R34),
    "resnet50_imagenet": of_imagenet(partial(imagenet_resnet, bottleneck=True), 64, R50),
    "botnet50": ModelSource(partial(ResNet, bottleneck=True), 64, R50, heads=4),
    "botnet50_imagenet": of_imagenet(partial(imagenet_resnet, bottleneck=True), 64, R50, heads=4),
    "vgg16": ModelSource(VGG, 64, VGG16, has_dropout=True),
    "vgg16_quarter": ModelSource(partial(VGG, hidden=32), 16, VGG16, has_dropout=True),
    "vgg16_imagenet": of_imagenet(partial(VGG, hidden=64, pool=7), 64, VGG16, has_dropout=True),
    "mobilenet_v2": ModelSource(MobileNetV2, 32, (1, 2, 3, 4, 3, 3, 1), most_depths=7),
    "mobilevit_s": transformer(partial(MobileViT, stem="cifar"), 16, (2, 4, 3), heads=4, most_depths=3),
    "mobilevit_s_imagenet": transformer(MobileViT, 16, (2, 4, 3), heads=4, most_depths=3, size=256),
    "vit": transformer(ViT, 192, (6,), heads=3),
    "vit_ti16": transformer(partial(ViT, patch=16), 192, (12,), heads=3, size=224),
    "vit_s16": transformer(partial(ViT, patch=16), 384, (12,), heads=6, size=224),
    "vit_b16": transformer(partial(ViT, patch=16), 768, (12,), heads=12, size=224),
    "gpt": transformer(GPT, 128, (4,), heads=4, reads="tokens", size=128),
    "gpt3_small": transformer(GPT, 768, (12,), heads=12, reads="tokens", size=1024),
    "gpt3_medium": transformer(GPT, 1024, (24,), heads=16, reads="tokens", size=1024),
    "gpt3_xl": transformer(GPT, 2048, (24,), heads=16, reads="tokens", size=2048),
}
