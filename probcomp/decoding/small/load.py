"""The embedded checkpoint and the decoding configuration that belongs to it."""

from functools import cache
from pathlib import Path

from probcomp.decoding.config import DecodingConfig
from probcomp.decoding.small.network import SmallDenoiser
from probcomp.decoding.small.tokenizer import CharacterTokenizer
from probcomp.storage import read_json, read_tensors

FOLDER = Path(__file__).parent


def load_small(folder: Path | str) -> SmallDenoiser:
    """A model that `probcomp.decoding.small.train` wrote to ``folder``."""
    model = SmallDenoiser()
    model.load_state_dict(read_tensors(Path(folder) / "small.safetensors"))
    model.folder = Path(folder)
    return model.eval()


@cache
def embedded_model() -> SmallDenoiser:
    """The checkpoint that ships with the package, read once."""
    return load_small(FOLDER)


def training_log() -> dict:
    """How the shipped checkpoint was trained: configuration and curve."""
    return read_json(FOLDER / "training.json")


def small_config() -> DecodingConfig:
    """Defaults for the embedded model: short answers, and EOS marginals that are a CDF."""
    tokenizer = CharacterTokenizer()
    bar, brace = (tokenizer.encode(character)[0] for character in "|}")
    return DecodingConfig(
        max_new_tokens=32,  # the longest canvas it was trained on
        initial_length=16,
        extend_actions=(4, 8, 16),
        length_mean=9.0,
        length_shape=2.0,
        end_model="cdf",
        beyond=False,  # trained on canvases of every length: 1 - e_W is usable as it is
        tail_window=4,
        block_mean=30.0,
        block_max=32,
        delimiters=((bar, 0.2), (brace, 1.0)),
        cost_position=1e-4,
        error_step=0.3,
    )
