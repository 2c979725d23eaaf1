"""What each operation of the vocabulary does: one function per row of the table, and how a call reaches it.

Kernels take the bound arguments by name and never write to them. Their results may share memory with an argument, which
is safe because nothing that holds a value writes to it. Where PyTorch has a gradient, so has the kernel: none detaches
a value, or makes a number of it, of which a gradient may be asked.

`running` calls them; `adapters` makes kernels of PyTorch's functions; the rest hold one group of the table each, and
`bounds` the checks of what data could otherwise bring down on a GPU.
"""

from telepatch_worker.kernels.bounds import index_into
from telepatch_worker.kernels.running import KERNELS, run_op
from telepatch_worker.tensor_values import DTYPES, meta_of, seed_of, torch_index

__all__ = ["DTYPES", "KERNELS", "index_into", "meta_of", "run_op", "seed_of", "torch_index"]
