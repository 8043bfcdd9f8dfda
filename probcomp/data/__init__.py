"""Data sets: embedded, read from files, and cut into seeded batches."""

from probcomp.data.batches import Batches as Batches
from probcomp.data.dataset import Data as Data
from probcomp.data.digits import load_digits as load_digits
from probcomp.data.files import read_data as read_data
from probcomp.data.text import Reading as Reading
from probcomp.data.text import is_text as is_text
from probcomp.data.text import load_tokenizer as load_tokenizer
from probcomp.data.text import read_text as read_text
