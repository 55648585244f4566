"""Models of transformers with random weights, biases and norms too, and rows of random ids for them."""

import numpy as np
import torch
import transformers

torch.set_num_threads(1)  # small models, and other tests on the same cores

SMALL = dict(vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
SMALL |= dict(max_position_embeddings=66)
BASE = dict(vocab_size=50265, hidden_size=768, num_hidden_layers=2, num_attention_heads=12, intermediate_size=3072)
LARGE = BASE | dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
XLM_R = BASE | dict(vocab_size=250002, num_hidden_layers=1)


def config(kind=transformers.RobertaConfig, **fields):
    fields = dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5) | fields
    return kind(bos_token_id=0, pad_token_id=1, eos_token_id=2, **fields)


def randomised(model: torch.nn.Module, seed: int = 0):
    """What an initialiser leaves at 0 or 1 would hide a swapped tensor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.1 * noise + float(name.endswith("LayerNorm.weight") or name.endswith("norm.weight")))
    return model.eval()


def tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def rows(vocab_size: int, lengths: list[int], width: int, side: str = "right", pad: int = 1, seed: int = 0):
    """(ids, 1 for a token and 0 for padding): int32 [n, width] each."""
    random = np.random.default_rng(seed)
    ids, mask = np.full((len(lengths), width), pad, np.int32), np.zeros((len(lengths), width), np.int32)
    for row, length in enumerate(lengths):
        at = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, at] = [0, *random.integers(3, vocab_size, length - 2), 2]
        mask[row, at] = 1
    return ids, mask


def run(model: torch.nn.Module, ids: np.ndarray, mask: np.ndarray, token_types: np.ndarray | None = None):
    """(the model's first output, hidden states of the last layer), as arrays of NumPy."""
    as_tensor = [None if x is None else torch.tensor(x.astype(np.int64)) for x in (ids, mask, token_types)]
    with torch.inference_mode():
        out = model(input_ids=as_tensor[0], attention_mask=as_tensor[1], token_type_ids=as_tensor[2], output_hidden_states=True)
    return out[0].numpy(), out.hidden_states[-1].numpy()
