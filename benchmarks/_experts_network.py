"""A character-level mixture of experts for the benchmark of whole experts, trained here and cached.

Mixtral's shape: four layers of width 128, each with eight experts of 192 gated neurons, two of them
for each token, and the load-balancing loss of Mixtral's training. 2.6M parameters.
"""

from pathlib import Path

import torch
from _post_networks import LM_EPOCH_WINDOWS, Logits, Network, Windows, characters
from torch import Tensor, nn

from probcomp.models.train import train
from probcomp.storage import read_json, read_tensors, write_json, write_tensors

BALANCE = 0.02
"""Weight of the load-balancing loss, the published one."""


def mixture(data: Path, cache: Path, held: int, seed: int, epochs: int) -> Network:
    """The network, calibrated on nine tenths of tinyshakespeare; the last ``held`` windows judge.

    Loss: nats per character.
    """
    return characters("char-mixtral", _trained, data, cache, held, seed, epochs)


def _trained(ids: Tensor, vocabulary: int, cache: Path, seed: int, epochs: int) -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Logits(MixtralForCausalLM(MixtralConfig(**settings))).eval()
    record = {**settings, "seed": seed, "epochs": epochs, "windows": LM_EPOCH_WINDOWS}
    folder = cache / f"char-mixtral-{seed}-{epochs}"
    if (folder / "settings.json").is_file() and read_json(folder / "settings.json") == record:
        model.load_state_dict(read_tensors(folder / "weights.safetensors"))
        return model

    def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        assert isinstance(network, Logits)
        found = network.model(input_ids=batch[0], use_cache=False, output_router_logits=True)
        own = nn.functional.cross_entropy(found.logits.flatten(0, 1), batch[1].flatten())
        return own + BALANCE * found.aux_loss

    batches = Windows(ids, LM_EPOCH_WINDOWS, seed)
    train(model, batches, epochs=epochs, lr=3e-3, weight_decay=0.1, seed=seed, loss=loss)
    write_tensors(folder / "weights.safetensors", model.state_dict())
    write_json(folder / "settings.json", record)
    return model
