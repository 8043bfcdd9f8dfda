"""Host-side tests; the interpreting process runs `test_epilogue` of them, and its own folder."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_[!e]*.py"]
else:
    collect_ignore_glob = ["test_epilogue.py"]
