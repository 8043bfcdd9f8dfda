"""Triton kernels and their launchers. Imported only where a kernel is about to run.

With ``TRITON_INTERPRET=1`` set before Triton is first imported, the kernels run on CPU tensors, a
program at a time, for tests of their arithmetic. The same process can not also compile them.
"""
