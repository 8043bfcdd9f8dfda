"""Is a model that was read back the same model? Classes, attributes, tensors, and outputs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from probcomp.structure import gate
from probcomp.structure.masks import MASKS_ATTRIBUTE
from probcomp.structure.provenance import is_config


class NotStock(Exception):
    """The model cannot be written as a stock class with a configuration; says why."""


def check_same(model: Any, loaded: Any) -> None:
    """Compare a Hugging Face model with its copy from disk.

    Equal classes, attributes and tensors make equal functions. Integer attributes that only
    describe widths may differ, if the two models then compute the same on sample inputs, bit for
    bit.

    Raises:
        NotStock: naming the first difference.
    """
    theirs = dict(loaded.named_modules())
    described: list[str] = []
    for path, module in model.named_modules():
        other = theirs.pop(path, None)
        # the root may come back as the subclass that builds uneven layers
        if other is None or (type(other) is not type(module) and path):
            raise NotStock(f"{path} would come back as another module")
        described += _compare_attributes(path, module, other, model.config)
    if theirs:
        raise NotStock(f"{next(iter(theirs))} would appear in addition")
    _compare_tensors(dict(model.named_parameters()), dict(loaded.named_parameters()))
    _compare_tensors(dict(model.named_buffers()), dict(loaded.named_buffers()))
    if described:
        samples = _samples(model)
        if samples is None:
            raise NotStock(described[0])
        reason = _outputs_differ(model, loaded, samples)
        if reason is not None:
            raise NotStock(f"{described[0]}, and {reason}")


def _compare_attributes(path: str, module: Any, other: Any, root: Any) -> list[str]:
    """Raises where an attribute matters for sure; returns the differences in plain integers."""
    integers: list[str] = []
    for name, value in vars(module).items():
        if name in ("training", "name_or_path", MASKS_ATTRIBUTE):
            continue
        where = f"{path}.{name}" if path else name
        if is_config(value):
            _compare_config(value, root, getattr(other, name, None), where)
        elif isinstance(value, bool | int | float | str | tuple | torch.Size):
            found = vars(other).get(name)
            if found == value:
                continue
            reason = f"{where} would come back as {found!r}, it is {value!r}"
            if type(value) is not int or type(found) is not int:
                raise NotStock(reason)
            integers.append(reason)
    return integers


def _compare_config(value: Any, root: Any, other: Any, where: str) -> None:
    """A private configuration's own numbers must come back; the others describe the dense model."""
    for name, number in vars(value).items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        private = value is not root and vars(root).get(name) != number
        if private and (other is None or vars(other).get(name) != number):
            raise NotStock(f"{where}.{name} = {number!r} is in no configuration")


def _compare_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    for name, tensor in ours.items():
        other = theirs.get(name)
        same = (
            other is not None
            and other.shape == tensor.shape
            and other.dtype == tensor.dtype
            and torch.equal(other.to(tensor.device), tensor)
        )
        if not same:
            raise NotStock(f"{name} would come back with another value")
    if extra := set(theirs) - set(ours):
        raise NotStock(f"{min(extra)} would appear in addition")


def _samples(model: Any) -> dict[str, Tensor] | None:
    """Small inputs that a Hugging Face model of text or images takes, or None."""
    name, config = model.main_input_name, model.config
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    if name == "input_ids":
        vocabulary = model.get_input_embeddings().num_embeddings
        ids = torch.randint(0, vocabulary, (2, 7), generator=generator).to(device)
        samples = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if getattr(config, "is_encoder_decoder", False):
            samples["decoder_input_ids"] = ids[:, :5]
        return samples
    if name == "pixel_values":
        side = getattr(config, "image_size", None) or 64
        sides = tuple(side) if isinstance(side, list | tuple) else (side, side)
        shape = (1, getattr(config, "num_channels", 3), *sides)
        pixels = torch.randn(shape, generator=generator).to(device, model.dtype)
        return {"pixel_values": pixels}
    return None


def _outputs_differ(model: Any, loaded: Any, samples: dict[str, Tensor]) -> str | None:
    try:
        ours, theirs = gate.run(model, samples), gate.run(loaded.to(model.device), samples)
    except Exception as error:  # user models may need inputs of their own
        return f"the two could not be run for comparison ({type(error).__name__})"
    equal = len(ours) == len(theirs) and all(
        torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )
    return None if equal else "the outputs would differ"
